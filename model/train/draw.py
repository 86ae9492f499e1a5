"""The random choices of one sample: seeded, made on the CPU, hence the same on every device."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import torch
from pydantic import AfterValidator, NonNegativeFloat, PositiveFloat
from torch import Generator, Tensor

Choice = TypeVar("Choice")
Shares = TypeVar("Shares", bound=tuple[float, ...])


def ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    """``bounds`` themselves. Raises ValueError unless they are a least and a most."""
    if bounds[0] > bounds[1]:
        raise ValueError("give the least first, then the most")
    return bounds


def sum_to_one(shares: Shares) -> Shares:
    """``shares`` themselves. Raises ValueError unless they are probabilities of all that can happen."""
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError("these are probabilities that must sum to 1")
    return shares


Range = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(ordered)]
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(ordered)]


class Draw:
    """A stream of random choices that depends on ``seed`` alone."""

    def __init__(self, seed: int) -> None:
        self.generator = Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.uniform(0, 1) < probability

    def one_of(self, options: Sequence[Choice]) -> Choice:
        """Any of the ``options``, with equal chance."""
        return options[int(torch.randint(len(options), (), generator=self.generator))]

    def index(self, shares: Sequence[float]) -> int:
        """The place of one of the ``shares``, which sum to 1, with that share as its chance."""
        at = self.uniform(0, 1)
        for place, share in enumerate(shares[:-1]):
            if at < share:
                return place
            at -= share
        return len(shares) - 1

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, float32."""
        return torch.randn(*shape, generator=self.generator)

    def uniforms(self, shape: Sequence[int]) -> Tensor:
        """Numbers in [0,1), float64: the tails of a distribution need the digits."""
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64)
