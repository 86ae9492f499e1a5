"""Overlapping chunks φ_i of an image, so that a backbone works at the resolution that it was trained for.

Eq. 14 and 15 average a loss over the chunks: L_OC(x_P, x_H) = 1/N · Σ_i L(φ_i(x_P), φ_i(x_H)).
"""

import math

import torch
from torch import Tensor, nn


def offsets(side: int, size: int) -> list[int]:
    """First pixels of the fewest chunks of ``size`` pixels that cover ``side`` pixels, evenly spaced, first to last.

    512 and 224 give 0, 144, 288. At a multiple of ``size`` the chunks touch without overlap. A remainder of the
    spacing moves chunks by one pixel, so that the last one ends with the image: 700 and 224 give 0, 158, 317, 476.
    """
    gaps = math.ceil(side / size) - 1
    return [index * (side - size) // gaps for index in range(gaps + 1)] if gaps else [0]


def chunks(x: Tensor, size: int) -> Tensor:
    """Images [B,3,H,W] → all their chunks [B·N,3,size,size], image by image and row by row; they cover every pixel.

    A side shorter than ``size`` is taken whole: a 512×512 image in chunks of 518 is itself, one of 512×700 becomes
    two of 512×518.
    """
    cut = [
        x[..., top : top + size, left : left + size]
        for top in offsets(x.shape[-2], size)
        for left in offsets(x.shape[-1], size)
    ]
    return torch.stack(cut, dim=1).flatten(0, 1)


class OverlapChunked(nn.Module):
    """``loss`` over chunks of ``size`` pixels: OC-LPIPS of eq. 14 is ``OverlapChunked(LPIPS(…), 224)``."""

    def __init__(self, loss: nn.Module, size: int) -> None:
        super().__init__()
        self.loss, self.size = loss, size

    def forward(self, restored: Tensor, original: Tensor) -> Tensor:
        """Images [B,3,H,W] → scalar; ``loss`` averages over the chunks as it does over a batch."""
        value: Tensor = self.loss(chunks(restored, self.size), chunks(original, self.size))
        return value
