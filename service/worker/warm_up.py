"""Before the first client: every batch size runs once, and what a pixel costs in memory and in time is measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.pipeline import OMGSRPipeline
from model.plan import BytesPerPixel, Kind, peak_bytes
from model.upscale import Op, drive
from service.worker.batching import BATCH_SIZES
from service.worker.image import work_of
from service.worker.memory import peak_bytes_of

SCALE = 4


@dataclass(frozen=True)
class Measured:
    """What an image of the process size has shown."""

    ops: dict[Kind, Op]
    """One of each kind."""
    each: BytesPerPixel


def measure(pipe: OMGSRPipeline) -> Measured:
    """Run one image of the process size all the way, op by op."""
    ops: dict[Kind, Op] = {}
    peaks: dict[Kind, float] = {}

    def execute(batch: Sequence[Op]) -> list[Tensor]:
        work, results = work_of(batch[0]), list[Tensor]()
        networks = [pipe.vae, pipe.denoiser.network]
        peak = peak_bytes_of(lambda: results.extend(pipe.execute(batch)), networks, pipe.device)
        ops[work.kind], peaks[work.kind] = batch[0], peak / work.pixels
        return results

    side = max(1, pipe.geometry.process_size // SCALE)
    drive([pipe.upscale(torch.zeros(3, side, side), scale=SCALE)], execute, 1)
    return Measured(ops, BytesPerPixel(peaks["encode"], peaks["predict"], peaks["decode"]))


def warm_up(pipe: OMGSRPipeline, measured: Measured, *, max_batch: int, max_pixels: int, free_bytes: int) -> float:
    """Run every batch size that will be used, and return the device seconds per megapixel in the largest batches.

    Single ops have run before (`measure`). On a CPU they are enough: larger batches have no first-time work of theirs.
    """
    seconds = 0.0
    for kind, op in measured.ops.items():
        work = work_of(op)
        most = max_batch if kind == "predict" else min(max_batch, max_pixels // work.pixels)
        most = max(1, min(most, free_bytes // max(1, peak_bytes(work, 1, measured.each))))
        sizes = [size for size in reversed(BATCH_SIZES) if size <= (1 if pipe.device.type == "cpu" else most)]
        for size in sizes[1:]:
            _seconds(pipe, op, size)
        seconds += _seconds(pipe, op, sizes[-1]) / sizes[-1] / (work.pixels / 1e6)
    return seconds


def _seconds(pipe: OMGSRPipeline, op: Op, size: int) -> float:
    began = time.monotonic()
    pipe.execute([op] * size)
    if pipe.device.type == "cuda":
        torch.cuda.synchronize(pipe.device)
    return time.monotonic() - began
