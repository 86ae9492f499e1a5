"""A worker for tests of the service alone: `python -m tests.stub_worker`. Its model is a stub, all else is real.

The stub, named `stub`, takes 20 + 5·n ms for a batch of n ops of whatever stage, and its image is the photo's bicubic
enlargement. Photos of certain sizes do harm: they kill their worker, hang its device, or want more memory than it has.
"""

import asyncio
import math
import os
import signal
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from model.bicubic import bicubic
from model.plan import LATENT, BytesPerPixel, Geometry, Size, stages, tiles
from model.upscale import Decode, Encode, Op, Predict, Steps
from service.job import VariantInfo
from service.settings import Settings
from service.telemetry import configure_logging
from service.tracing import configure_tracing
from service.worker.process import serve
from service.worker.served import Models, Served

BATCH_S, OP_S = 0.020, 0.005
EACH = BytesPerPixel(encode=100, predict=100, decode=200)
"""What it says of the memory that it does not take: a photo of up to 16×16 needs 1.0 MB at 4×."""
SECONDS_PER_MEGAPIXEL = 3 * (BATCH_S + 8 * OP_S) / 8 / (64 * 64 / 1e6)
POISON: Size = (13, 13)
"""(width, height) of a photo that kills its worker in mid-job, as a crash of the driver would."""
STUCK: Size = (17, 17)
"""One whose first batch does not come back."""
GREEDY: Size = (19, 19)
"""One whose every batch runs out of memory."""

INFO = VariantInfo(
    name="stub",
    family="sd",
    base="none",
    mid_timestep=195,
    native_size=64,
    process_size=64,
    license="Apache-2.0",
    color_fix="adain",
)


class StubPipeline:
    """Costs time, does nothing: at 4× a photo of at most 16×16 is one tile, one of 48×40 is 20."""

    geometry = Geometry(process_size=64, tile=8, overlap=4, multiple=8)

    def upscale(
        self,
        pixels: Tensor,
        *,
        scale: float = 4,
        strength: float = 1.0,
        color_fix: str | None = None,
        deep: bool = False,
    ) -> Steps:
        size = (pixels.shape[-1], pixels.shape[-2])
        mark = {STUCK: float("inf"), GREEDY: float("nan")}.get(size, 0.0)
        for stage in stages(size, scale, self.geometry):
            width, height = stage.padded
            yield [Encode(_blank(mark, 3, height, width))]
            if size == POISON:
                os.kill(os.getpid(), signal.SIGKILL)
            boxes = tiles(height // LATENT, width // LATENT, self.geometry.tile, self.geometry.overlap)
            yield [Predict(_blank(mark, 4, self.geometry.tile, self.geometry.tile)) for _ in boxes or [None]]
            yield [Decode(_blank(mark, 4, height // LATENT, width // LATENT))]
        return bicubic(pixels, stage.output)

    def rest(self) -> None:
        """It keeps nothing."""

    def execute(self, ops: Sequence[Op]) -> list[Tensor]:
        marks = [float(op.tensor[0, 0, 0]) for op in ops]
        time.sleep(3600 if float("inf") in marks else BATCH_S + OP_S * len(ops))
        if any(map(math.isnan, marks)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is (a stub's word).")
        return [op.tensor for op in ops]


def _blank(mark: float, *shape: int) -> Tensor:
    return torch.full((1, 1, 1), mark).expand(shape)


if __name__ == "__main__":
    settings = Settings()
    configure_logging(settings.log_level)
    configure_tracing("worker")
    torch.set_num_threads(1)
    stub = Served(INFO, StubPipeline(), EACH, SECONDS_PER_MEGAPIXEL)
    asyncio.run(serve(settings, Models({INFO.name: stub}, settings.max_device_bytes or 2**40)))
