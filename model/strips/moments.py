"""Statistics of a whole map, gathered strip by strip."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

Norming = Callable[[Tensor, Tensor], None]
"""Writes the norm of a strip (the first) into a place of its shape (the second), which may be the strip itself."""

BLOCKS, LANES = 4, 32
"""A strip is measured in parts, and of each part the pixels in turns, apart: no sum of float32 gets long."""


class Moments:
    """Count, mean and M2 (the sum of squared deviations) of each channel, in float32 on the map's device.

    Parts are combined as they come, after Chan, Golub and LeVeque (1979): with n = n_a + n_b and d = mean_b − mean_a,
    mean = mean_a + d·n_b / n and M2 = M2_a + M2_b + d²·n_a·n_b / n. No sum of squares, which would lose the deviations
    beside a large mean.
    """

    def __init__(self) -> None:
        self._count = 0
        # One tensor for all parts, not one for each: those would lie between the large ones, and hold the heap apart.
        self._sums: Tensor | None = None

    def add(self, strip: Tensor) -> None:
        """Take in a strip [1,C,n,w], in channels-last order, of float32 or shorter."""
        if self._sums is None:
            self._sums = torch.zeros(2, strip.shape[1], dtype=torch.float32, device=strip.device)
        mean, m2 = self._sums
        for block in torch.split(strip, -(-strip.shape[2] // BLOCKS), dim=2):
            count, mean_b, variance_b = _measure(block)
            total = self._count + count
            m2 += variance_b * count
            apart = mean_b - mean
            m2 += apart.square() * (self._count * count / total)
            mean += apart * (count / total)
            self._count = total

    def norming(self, norm: nn.GroupNorm) -> Norming:
        """`norm` of the whole map, for strips [1,C,n,w] of it."""
        assert self._sums is not None
        means, m2s = self._sums.view(2, norm.num_groups, -1)
        mean = means.mean(1, keepdim=True)
        m2 = (m2s + (means - mean).square() * self._count).sum(1, keepdim=True)
        spread = (m2 / (self._count * means.shape[1]) + norm.eps).rsqrt().expand_as(means).flatten()
        scale = (spread * norm.weight.detach())[:, None, None]
        shift = norm.bias.detach()[:, None, None] - mean.expand_as(means).reshape(-1, 1, 1) * scale
        return partial(_scaled, scale, shift)


def _scaled(scale: Tensor, shift: Tensor, strip: Tensor, place: Tensor) -> None:
    torch.addcmul(shift, strip, scale, out=place)


def _measure(block: Tensor) -> tuple[int, Tensor, Tensor]:
    """Count, mean and variance of each channel of [1,C,n,w]. By what measures for batch norms: no sum of squares."""
    channels, count = block.shape[1], block.shape[2] * block.shape[3]
    lanes = math.gcd(count, LANES)
    rows = block.permute(0, 2, 3, 1).reshape(count // lanes, lanes * channels)
    running = torch.zeros(2, lanes * channels, dtype=torch.float32, device=block.device)  # not used, but for its dtype
    measured = torch.batch_norm_update_stats(rows, running[0], running[1], 0.0)
    means, variances = (each.view(lanes, channels) for each in measured)
    mean = means.mean(0)
    return count, mean, (variances + (means - mean).square()).mean(0)
