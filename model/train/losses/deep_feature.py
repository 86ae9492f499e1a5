"""The perceptual term: a distance of MobileNetV2 features that stands where the paper has LPIPS (eq. 14).

No package ships LPIPS' VGG16, so this is not LPIPS and is never reported as such; it is also never the judge.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from model.analysis.quality import feature_distance
from model.train.losses.mobilenet_v2 import MobileNetV2Maps, installed_weights


class DeepFeatureLoss(nn.Module):
    """Mean deep-feature distance of restored images to originals, both [B,3,H,W] in [-1,1]."""

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.maps = MobileNetV2Maps(weights or installed_weights())

    def forward(self, restored: Tensor, original: Tensor) -> Tensor:
        """Scalar, 0…2."""
        with torch.autocast(restored.device.type, enabled=False):
            return feature_distance(self.maps, restored, original).mean()


class InPhases(nn.Module):
    """``loss`` of images of which image i of [B,3,H,W] is rolled by (i mod 2, ⌊i/2⌋ mod 2) pixels.

    The backbone's first layer takes every other pixel. Were all crops cut where the VAE's grid begins, some pixels
    would always count for less than their neighbours, and a decoder would learn to draw a hatch there.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, restored: Tensor, original: Tensor) -> Tensor:
        """Scalar."""
        value: Tensor = self.loss(rolled(restored), rolled(original))
        return value


def rolled(images: Tensor) -> Tensor:
    """Each image of a batch to another of the four phases."""
    return torch.stack([image.roll((i % 2, i // 2 % 2), (-2, -1)) for i, image in enumerate(images)])
