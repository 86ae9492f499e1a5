"""Statistics of a whole map, gathered strip by strip."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = 4
"""Parts of a strip that are measured one after the other, so that the deviations take little memory."""


class Moments:
    """Count, mean and M2 (the sum of squared deviations) of each channel and part, in float32 on the map's device.

    The whole's are combined after Chan, Golub and LeVeque (1979): with n = Σ n_i and mean = Σ n_i·mean_i / n,
    M2 = Σ M2_i + Σ n_i·(mean_i − mean)². No sum of squares, which would lose the deviations beside a large mean.
    """

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._means: list[Tensor] = []
        self._m2s: list[Tensor] = []

    def add(self, strip: Tensor) -> None:
        """Take in a strip [1,C,n,w] of any dtype."""
        for block in torch.split(strip, -(-strip.shape[2] // BLOCKS), dim=2):
            count = block.shape[2] * block.shape[3]
            mean = block.sum((0, 2, 3), dtype=torch.float32) / count
            self._counts.append(count)
            self._means.append(mean)
            self._m2s.append((block - mean[:, None, None]).square_().sum((0, 2, 3)))

    def norming(self, norm: nn.GroupNorm) -> Callable[[Tensor], Tensor]:
        """`norm` of the whole map, for strips [1,C,n,w] of it: with given statistics a batch norm does just that."""
        means = torch.stack(self._means, 1).view(norm.num_groups, -1, len(self._counts))
        m2s = torch.stack(self._m2s, 1).view_as(means)
        counts = torch.tensor(self._counts, dtype=torch.float32, device=means.device)
        total = sum(self._counts) * means.shape[1]
        mean = (means * counts).sum((1, 2), keepdim=True) / total
        m2 = m2s.sum((1, 2), keepdim=True) + ((means - mean).square() * counts).sum((1, 2), keepdim=True)
        channels = means.shape[:2]
        return partial(
            F.batch_norm,
            running_mean=mean[..., 0].expand(channels).flatten(),
            running_var=(m2 / total)[..., 0].expand(channels).flatten(),
            weight=norm.weight.float(),
            bias=norm.bias.float(),
            eps=norm.eps,
        )
