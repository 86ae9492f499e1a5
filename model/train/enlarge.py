"""Pillow's bicubic enlargement as a tensor operation, bit for bit: the network's input is what users' images become.

Pillow multiplies 8-bit pixels with weights in units of 2⁻²²; such sums are exact in float64, on any device.
"""

import torch
from torch import Tensor

UNIT = 1 << 22


def enlarge(pixels: Tensor, scale: int) -> Tensor:
    """[…,h,w] of whole numbers 0 … 255 → […,scale·h,scale·w], float64: across first, then down, rounded after each."""
    height, width = pixels.shape[-2:]
    wide = _eight_bit(pixels.double() @ _weights(width, scale).to(pixels.device))
    return _eight_bit(_weights(height, scale).to(pixels.device).T @ wide)


def _eight_bit(total: Tensor) -> Tensor:
    return (total / UNIT + 0.5).floor().clamp(0, 255)


def _weights(length: int, scale: int) -> Tensor:
    """How much of each pixel is in each enlarged pixel: [length,scale·length]; what lies outside has no part."""
    centre = (torch.arange(length * scale, dtype=torch.float64) + 0.5) / scale
    weights = _cubic((torch.arange(length)[:, None] + 0.5 - centre).abs())
    return (weights / weights.sum(0) * UNIT).round()


def _cubic(t: Tensor) -> Tensor:
    """Keys' kernel with a = −½ at distances t ≥ 0."""
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, far * (t < 2))
