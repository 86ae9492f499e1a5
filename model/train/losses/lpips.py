"""LPIPS on VGG16, version 0.1 (arXiv:1801.03924).

d(x, y) = Σ_l mean_hw Σ_c w_lc · (x̂_lchw − ŷ_lchw)², where x̂_l is the map of relu1_2, 2_2, 3_3, 4_3 or 5_3, scaled to
length 1 over the channels at each position, and w_l ≥ 0 is learned from people's judgement.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelFilesError
from model.train.losses.backbones import load_weights
from model.train.losses.vgg16 import VGG16Maps

SOURCE = "lpips/weights/v0.1/vgg.pth of the package lpips 0.1.4 on PyPI"


class LPIPS(nn.Module):
    """LPIPS of restored images to originals, both [B,3,H,W] in [-1,1] with sides of at least 16 pixels.

    ``vgg`` is torchvision's VGG16; ``heads`` holds w_l as ``lin0.model.1.weight`` [1,64,1,1] to ``lin4…``.
    Raises ModelFilesError if one is missing or not what it should be.
    """

    def __init__(self, vgg: Path, heads: Path) -> None:
        super().__init__()
        self.maps = VGG16Maps(vgg)
        tensors = load_weights(heads, SOURCE)
        for level, channels in enumerate(self.maps.channels):
            name = f"lin{level}.model.1.weight"
            if name not in tensors or tensors[name].shape != (1, channels, 1, 1):
                raise ModelFilesError(f"{heads} has no {name} [1,{channels},1,1]: {SOURCE}")
            self.register_buffer(f"w{level}", tensors[name])

    def forward(self, restored: Tensor, original: Tensor) -> Tensor:
        """Scalar, 0 for equal images; the mean over the batch."""
        with torch.autocast(restored.device.type, enabled=False):
            pairs = zip(self.maps(restored), self.maps(original), strict=True)
            levels = [
                (self.get_buffer(f"w{level}") * (unit(x) - unit(y)).square()).sum(1).mean()
                for level, (x, y) in enumerate(pairs)
            ]
        return torch.stack(levels).sum()


def unit(x: Tensor) -> Tensor:
    """[B,C,H,W] → the same with length 1 over the channels; a position that is all zero stays so."""
    return F.normalize(x, dim=1, eps=1e-10)
