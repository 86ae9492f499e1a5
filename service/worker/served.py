"""What a worker needs of a model: little enough that its tests can do without one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from model.plan import BytesPerPixel, Geometry
from model.upscale import Op, Steps
from service.job import VariantInfo


class Pipeline(Protocol):
    """One variant in memory: `OMGSRPipeline` is one."""

    @property
    def geometry(self) -> Geometry:
        """What decides sizes and tiles."""
        ...

    def upscale(
        self,
        pixels: Tensor,
        *,
        scale: float = 4,
        strength: float = 1.0,
        color_fix: str | None = None,
        deep: bool = False,
    ) -> Steps:
        """The way of one image [3,h,w] in [0,1] as a generator of ops."""
        ...

    def execute(self, ops: Sequence[Op]) -> list[Tensor]:
        """The results of ops of equal key, run as one batch, in their order."""
        ...

    def rest(self) -> None:
        """Give back the memory that is kept from one batch for the next."""
        ...


@dataclass(frozen=True)
class Served:
    """A variant that is ready to run, and what clients are told about it."""

    info: VariantInfo
    pipe: Pipeline
    each: BytesPerPixel
    """Device memory that its networks take while they run."""
    seconds_per_megapixel: float
    """Of device time, in the largest batches: what is known before the first job."""


@dataclass(frozen=True)
class Models:
    """All that a worker serves, resident until it ends."""

    served: Mapping[str, Served]
    budget_bytes: int
    """Device memory that images may take; the models' own is beside it."""
    weight_bytes: int = 0
