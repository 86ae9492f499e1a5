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
