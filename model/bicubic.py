"""Pillow's bicubic on tensors, bit for bit: the network's input is one and the same in training and in serving.

Pillow counts in whole numbers: weights in units of 2⁻²², and levels again after each axis. Sums that lie in the middle
of two levels are common, and floats round them either way; whole numbers do not, on any device.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from model.plan import Size

UNIT_BITS = 22


def bicubic(pixels: Tensor, size: Size) -> Tensor:
    """[…,C,h,w] in [0,1] → […,C,height,width] of the same dtype in 256 levels, for `size` (width, height).

    What is between two levels is rounded first. Across, then down, as Pillow does it wherever the height grows;
    since 13.0 it may take the other order where the height shrinks.
    """
    width, height = size
    across = _taps(pixels.shape[-1], width, pixels.device)
    down = _taps(pixels.shape[-2], height, pixels.device)
    levels = (pixels * 255).round().to(torch.uint8).flatten(0, -3)
    # A plane at a time keeps the sums in the cache; it is turned because whole rows are quick to gather.
    planes = [_weigh(_weigh(plane.T.contiguous(), *across).T.contiguous(), *down) for plane in levels]
    return torch.stack(planes).view(*pixels.shape[:-2], height, width).to(pixels.dtype) / 255


def _weigh(levels: Tensor, taps: Tensor, units: Tensor) -> Tensor:
    """Rows [n,m] uint8 → rows [length,m] uint8."""
    half = 1 << (UNIT_BITS - 1)
    total = torch.full((taps.shape[1], levels.shape[1]), half, dtype=torch.int32, device=levels.device)
    for rows, weights in zip(taps, units, strict=True):
        total.addcmul_(levels.index_select(0, rows).int(), weights[:, None])
    return total.bitwise_right_shift_(UNIT_BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _taps(n: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of `n` pixels make each of `length`, and how much of each in units: both [taps,length].

    Keys' kernel with a = −½, as much wider as a new pixel is than an old one; what lies outside has no part.
    """
    scale = n / length
    stretch = max(scale, 1.0)
    centre = (torch.arange(length, dtype=torch.float64) + 0.5) * scale
    first = (centre - 2 * stretch + 0.5).long().clamp(min=0)
    index = first + torch.arange(math.ceil(4 * stretch))[:, None]
    t = ((index - centre + 0.5) * (1 / stretch)).abs()
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, far * (t < 2)) * (index < n)
    units = (weights / weights.sum(0) * (1 << UNIT_BITS)).round().int()
    return index.clamp(max=n - 1).to(device), units.to(device)
