"""How long the ways take, each against plain diffusers in turns on the same weights in the same run."""

import ctypes
import gc
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil
import torch
from torch import Tensor

from bench.bare import Bare
from bench.ways import EAGER, Way, build, run
from model.analysis.quality import psnr
from model.networks import STAGES, Stage

MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
SAMPLE_S = 0.002


@dataclass
class Timing:
    """Of one way."""

    seconds: dict[Stage, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    peak: int = 0
    """Bytes of device memory that the largest stage takes beyond what was taken before it."""
    output: Tensor | None = None
    """[B,3,H,W]."""

    def median(self, stage: Stage) -> float:
        """Seconds a run."""
        return statistics.median(self.seconds[stage])

    @property
    def whole(self) -> list[float]:
        """Seconds of all stages, run by run."""
        return [sum(run) for run in zip(*self.seconds.values(), strict=True)]

    @property
    def seconds_per_run(self) -> float:
        """Median of all stages together."""
        return statistics.median(self.whole)

    @property
    def spread(self) -> float:
        """Half of the distance from the fastest run to the slowest, in parts of the median."""
        return (max(self.whole) - min(self.whole)) / 2 / self.seconds_per_run


@dataclass(frozen=True)
class Pair:
    """One way beside plain diffusers, run in turns."""

    name: str
    plain: Timing
    timing: Timing

    @property
    def ratio(self) -> float:
        """How many times as fast as plain diffusers: the median over turns."""
        return statistics.median(a / b for a, b in zip(self.plain.whole, self.timing.whole, strict=True))

    def stage_ratio(self, stage: Stage) -> float:
        """The same of one stage."""
        turns = zip(self.plain.seconds[stage], self.timing.seconds[stage], strict=True)
        return statistics.median(a / b for a, b in turns)

    @property
    def psnr_db(self) -> float:
        """Of the way's output against plain diffusers', in [-1,1]."""
        assert self.plain.output is not None
        assert self.timing.output is not None
        return psnr(self.timing.output, self.plain.output)

    @property
    def error(self) -> float:
        """Largest difference of the outputs, which lie in [-1,1]."""
        assert self.plain.output is not None
        assert self.timing.output is not None
        return float((self.timing.output - self.plain.output).abs().max())


def compare(name: str, bare: Bare, x: Tensor, runs: int, note: Callable[[str], None]) -> Pair:
    """Time the way `name` and plain diffusers in turns on pixels [B,3,H,W], after a warm-up of both.

    Raises what the way raises where it cannot be had, torch.OutOfMemoryError where the device is too small.
    """
    note(f"{name}: made ready")
    before = fingerprint(bare)
    ways = {"plain": build(EAGER, bare), "timing": build(name, bare)}
    if fingerprint(bare) != before:
        raise RuntimeError(f"{name} wrote into the weights that plain diffusers runs on: no comparison is possible")
    timings = {role: Timing() for role in ways}
    for turn in range(runs + 1):
        note(f"{name}: turn {turn} of {runs}" if turn else f"{name}: warm-up")
        for role, way in ways.items():
            once(way, x, timings[role] if turn else Timing())
    note(f"{name}: memory")
    for role, way in ways.items():
        timings[role].peak, timings[role].output = peak_memory(way, x)
    return Pair(name, **timings)


def once(way: Way, x: Tensor, timing: Timing) -> None:
    """Run all stages and note their seconds."""
    given = x
    for stage in STAGES:
        synchronize(x.device)
        began = time.perf_counter()
        given = run(way, stage, given)
        synchronize(x.device)
        timing.seconds[stage].append(time.perf_counter() - began)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fingerprint(bare: Bare) -> list[float]:
    """Sums of all weights."""
    with torch.inference_mode():
        weights = [*bare.autoencoder.parameters(), *bare.denoiser.parameters()]
        return torch.stack([weight.sum(dtype=torch.float64) for weight in weights]).tolist()


def peak_memory(way: Way, x: Tensor) -> tuple[int, Tensor]:
    """Bytes that the largest stage takes beside what was taken before it, and the output on the host."""
    peak, given = 0, x
    for stage in STAGES:
        with grown_memory(x.device) as grown:
            given = run(way, stage, given)
            synchronize(x.device)
        peak = max(peak, grown[0])
    return peak, given.cpu()


@contextmanager
def grown_memory(device: torch.device) -> Iterator[list[int]]:
    """Bytes by which memory grows within, at most: what CUDA's allocator gives out; on a CPU the resident set."""
    grown = [0]
    forget(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield grown
        grown[0] = torch.cuda.max_memory_allocated(device) - before
        return
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            grown[0] = max(grown[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        done.set()
        watcher.join()


def forget(device: torch.device) -> None:
    """Give what was freed back to the device, or to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of ten large matrix products, 8192² on a GPU and 2048² on a CPU."""
    side = MATMUL_SIDE[device.type]
    a, b = torch.randn(2, side, side, device=device).to(dtype).unbind()
    seconds = []
    for _ in range(10):
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return float(2 * side**3 / min(seconds))


def best_threads(bare: Bare, x: Tensor) -> int:
    """How many threads plain diffusers is fastest with: one for each core, or for each hardware thread."""
    choices = sorted({psutil.cpu_count(logical=False) or 1, psutil.cpu_count() or 1})
    seconds = {}
    for threads in choices if len(choices) > 1 else []:
        torch.set_num_threads(threads)
        timing = Timing()
        for _ in range(2):
            once(build(EAGER, bare), x, timing)
        seconds[threads] = min(timing.whole)
    return min(seconds, key=lambda threads: seconds[threads], default=choices[0])


def machine(device: torch.device) -> str:
    """What the figures were taken on."""
    today = datetime.now(UTC).date()
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, torch {torch.__version__}, {today}"
    name = platform.processor() or platform.machine()
    return (
        f"{os.cpu_count()} CPU threads ({name}), torch on {torch.get_num_threads()}, torch {torch.__version__}, {today}"
    )
