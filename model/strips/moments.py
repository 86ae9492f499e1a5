"""Statistics of a whole map, gathered strip by strip."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = 4
"""Parts of a strip that are measured one after the other, so that the deviations take little memory."""


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
        """Take in a strip [1,C,n,w] of any dtype."""
        if self._sums is None:
            self._sums = torch.zeros(2, strip.shape[1], dtype=torch.float32, device=strip.device)
        mean, m2 = self._sums
        for block in torch.split(strip, -(-strip.shape[2] // BLOCKS), dim=2):
            count = block.shape[2] * block.shape[3]
            total = self._count + count
            mean_b = block.sum((0, 2, 3), dtype=torch.float32) / count
            m2 += (block - mean_b[:, None, None]).square_().sum((0, 2, 3))
            apart = mean_b - mean
            m2 += apart.square() * (self._count * count / total)
            mean += apart * (count / total)
            self._count = total

    def norming(self, norm: nn.GroupNorm) -> Callable[[Tensor], Tensor]:
        """`norm` of the whole map, for strips [1,C,n,w] of it: with given statistics a batch norm does just that."""
        assert self._sums is not None
        means, m2s = self._sums.view(2, norm.num_groups, -1)
        mean = means.mean(1, keepdim=True)
        m2 = (m2s + (means - mean).square() * self._count).sum(1, keepdim=True)
        variance = m2 / (self._count * means.shape[1])
        return partial(
            F.batch_norm,
            running_mean=mean.expand_as(means).flatten(),
            running_var=variance.expand_as(means).flatten(),
            weight=norm.weight.float(),
            bias=norm.bias.float(),
            eps=norm.eps,
        )
