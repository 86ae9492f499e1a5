"""DISTS: texture and structure of images compared in VGG16's features (arXiv:2004.07728). An optional term.

D(x, y) = 1 − Σ_ij (α_ij · l(x̃_ij, ỹ_ij) + β_ij · s(x̃_ij, ỹ_ij)) over the channels j of the levels i, of which level 0
is the image itself; with global means μ, variances σ² and covariance,
l = (2 μ_x μ_y + c) / (μ_x² + μ_y² + c) and s = (2 σ_xy + c) / (σ_x² + σ_y² + c).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelFilesError
from model.train.losses.backbones import load_weights
from model.train.losses.vgg16 import VGG16Maps

SOURCE = "weights.pt of the package DISTS_pytorch 0.1 on PyPI"
C = 1e-6


class L2Pool(nn.Module):
    """Anti-aliased pooling to half the side: √(h ∗ x²), h a 3×3 Hann window."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        hann = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("window", torch.outer(hann, hann)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,⌈H/2⌉,⌈W/2⌉]."""
        energy = F.conv2d(x.square(), self.window.expand(x.shape[1], -1, -1, -1), None, 2, 1, groups=x.shape[1])
        return (energy + 1e-12).sqrt()


class DISTS(nn.Module):
    """DISTS of restored images to originals, both [B,3,H,W] in [-1,1] with sides of at least 16 pixels.

    ``vgg`` is torchvision's VGG16; ``weights`` holds α and β as ``alpha`` and ``beta`` [1,1475,1,1], of any sum.
    Raises ModelFilesError if one is missing or not what it should be.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, vgg: Path, weights: Path) -> None:
        super().__init__()
        self.maps = VGG16Maps(vgg, pool=L2Pool())
        tensors = load_weights(weights, SOURCE)
        shape = (1, 3 + sum(self.maps.channels), 1, 1)
        if any(name not in tensors or tensors[name].shape != shape for name in ("alpha", "beta")):
            raise ModelFilesError(f"{weights} has no alpha and beta {list(shape)}: {SOURCE}")
        total = tensors["alpha"].sum() + tensors["beta"].sum()
        self.register_buffer("alpha", tensors["alpha"].flatten() / total)
        self.register_buffer("beta", tensors["beta"].flatten() / total)

    def forward(self, restored: Tensor, original: Tensor) -> Tensor:
        """Scalar, 0 for equal images; the mean over the batch."""
        with torch.autocast(restored.device.type, enabled=False):
            pairs = zip(self._levels(restored), self._levels(original), strict=True)
            textures, structures = zip(*(similarities(x, y) for x, y in pairs), strict=True)
            alike = torch.cat(textures, 1) @ self.alpha + torch.cat(structures, 1) @ self.beta
        return 1 - alike.mean()

    def _levels(self, images: Tensor) -> list[Tensor]:
        images = images.to(self.alpha.dtype)
        return [(images + 1) / 2, *self.maps(images)]


def similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """l and s of maps [B,C,H,W], [B,C] each."""
    mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
    # Deviations first: E[xy] − μ_x·μ_y would lose a small covariance beside a large mean.
    dx, dy = x - mean_x[..., None, None], y - mean_y[..., None, None]
    variances = dx.square().mean((2, 3)) + dy.square().mean((2, 3))
    texture = (2 * mean_x * mean_y + C) / (mean_x.square() + mean_y.square() + C)
    return texture, (2 * (dx * dy).mean((2, 3)) + C) / (variances + C)
