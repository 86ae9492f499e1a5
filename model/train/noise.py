"""Sensor noise of the degradation. All chance comes in as numbers drawn beforehand, so that any device agrees."""

from functools import lru_cache

import torch
from torch import Tensor


def poisson_noise(x: Tensor, uniforms: Tensor) -> Tensor:
    """The deviation of photon counts from a clean [1,C,H,W] in [0,1] on the 8-bit grid: Poisson(L·x)/L − x.

    L is the number of grey levels that occur in ``x``, rounded up to a power of two, as Real-ESRGAN has it.
    ``uniforms``: float64 in [0,1), one for each value, turned into counts by the inverse of the distribution.
    """
    levels = (x * 255).round().long()
    occurring = int(torch.bincount(levels.flatten(), minlength=256).count_nonzero())
    peak = 1 << (occurring - 1).bit_length()
    table = _distribution(peak, x.device)
    # The rows of all 256 rates lie one after the other, each lifted by its number: one sorted list to search.
    keys = (table + torch.arange(256, device=x.device)[:, None]).flatten()
    counts = torch.searchsorted(keys, levels + uniforms.to(x.device)) - levels * table.shape[1]
    return counts.clamp(min=0).to(x.dtype) / peak - x


@lru_cache(maxsize=16)
def _distribution(peak: int, device: torch.device) -> Tensor:
    """P(count ≤ k) [256,K] float64 for the rates 0, peak/255 … peak; K lies 10 deviations above the highest."""
    rate = torch.arange(256, device=device, dtype=torch.float64)[:, None] * peak / 255
    count = torch.arange(int(peak + 10 * peak**0.5 + 10), device=device, dtype=torch.float64)
    return torch.exp(torch.xlogy(count, rate) - rate - torch.lgamma(count + 1)).cumsum(1).clamp(max=1)
