"""Tiled diffusion: overlapping latent tiles out, one Gaussian-weighted prediction back."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from model.plan import Box

VARIANCE = 0.01
"""Of the Gaussian, in squared tile sides (the reference's value)."""


@cache
def gaussian_weights(side: int) -> Tensor:
    """[side, side] float32, off-centre vertically by half a latent as the reference's mask: n/2 against (n−1)/2."""
    steps = torch.arange(side, dtype=torch.float64)
    x = torch.exp(-((steps - (side - 1) / 2) ** 2) / side**2 / (2 * VARIANCE)) / math.sqrt(2 * math.pi * VARIANCE)
    y = torch.exp(-((steps - side / 2) ** 2) / side**2 / (2 * VARIANCE)) / math.sqrt(2 * math.pi * VARIANCE)
    return torch.outer(y, x).float()


def cut(latent: Tensor, boxes: Sequence[Box]) -> list[Tensor]:
    """The tiles [C,side,side] of a latent [C,h,w], as views."""
    return [latent[:, box.y : box.y + box.side, box.x : box.x + box.side] for box in boxes]


def blend(predictions: Sequence[Tensor], boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """The prediction [C,height,width] for the whole latent, summed in index order so that it is reproducible."""
    like = predictions[0]
    total = like.new_zeros(like.shape[0], height, width)
    weight_sum = like.new_zeros(height, width)
    for prediction, box in zip(predictions, boxes, strict=True):
        weights = gaussian_weights(box.side).to(like)
        rows, columns = slice(box.y, box.y + box.side), slice(box.x, box.x + box.side)
        total[:, rows, columns] += prediction * weights
        weight_sum[rows, columns] += weights
    return total / weight_sum
