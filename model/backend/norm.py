"""Group norm in steps that any memory layout can take, for a compiler that else re-orders the map around each norm.

OpenVINO's own norm reads a map channel by channel, its convolutions want pixel by pixel.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOL = 8
"""Pixels, each way, that are averaged at once: few enough for a plain float32 sum."""


class PooledNorm(nn.Module):
    """A group norm for one divisor of the sides of its maps: the one of the map that it is traced with."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        share = norm.num_groups / norm.num_channels
        self.groups, self.eps = norm.num_groups, norm.eps
        self.spread = nn.Buffer(torch.full((norm.num_channels, round(1 / share), 1, 1), share))
        self.weight, self.bias = (each.detach().view(1, -1, 1, 1) for each in (norm.weight, norm.bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] → the same shape: normed over h, w and the channels of a group, in two passes, float32."""
        pool = math.gcd(int(x.shape[2]), int(x.shape[3]), POOL)
        mean = self._mean(x, pool)
        centred = x - mean
        variance = self._mean(centred * centred, pool)
        mean_of_group = F.conv2d(mean, self.spread, groups=self.groups)
        between = mean - mean_of_group
        variance_of_group = F.conv2d(variance + between * between, self.spread, groups=self.groups)
        scale = torch.rsqrt(variance_of_group + self.eps) * self.weight
        return x * scale + (self.bias - mean_of_group * scale)

    @staticmethod
    def _mean(x: Tensor, pool: int) -> Tensor:
        """[B,C,1,1]."""
        pooled = F.avg_pool2d(x, pool) if pool > 1 else x
        return pooled.mean(3, keepdim=True).mean(2, keepdim=True)


@contextmanager
def pooled_norms(network: nn.Module) -> Iterator[None]:
    """Within, the group norms of `network` are pooled ones."""
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.GroupNorm)}
    for name, norm in norms.items():
        network.set_submodule(name, PooledNorm(norm))
    try:
        yield
    finally:
        for name, norm in norms.items():
            network.set_submodule(name, norm)
