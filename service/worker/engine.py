"""The device thread: takes the ops of many images, runs them in batches, hands the results back."""

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

import structlog
import torch
from torch import Tensor

from model.plan import LATENT
from model.upscale import Decode, Encode, Op, Predict
from service.worker.batching import Ready, Stage, pick

_log = structlog.get_logger(__name__)


class Device(Protocol):
    """What runs a batch of ops of one key: a pipeline."""

    def execute(self, ops: Sequence[Op]) -> list[Tensor]:
        """The results, in the order of the ops."""
        ...


Steps = Generator[Sequence[Op], Sequence[Tensor], Tensor]


@dataclass(eq=False)
class Image:
    """One image on its way: its generator, what it waits for, what it has cost."""

    variant: str
    steps: Steps
    priority: int
    on_tile: Callable[[int], None]
    """Called on the device thread with the number of tiles done."""
    outcome: "Future[Tensor]" = field(default_factory=Future)
    """Cancel it, and the image is dropped before its next batch."""
    seconds: dict[str, float] = field(default_factory=dict)
    """The image's share of the device's time, by stage."""
    tiles_done: int = 0
    results: list[Tensor | None] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class ReadyOp(Ready):
    """An op of an image, and the place where its result belongs."""

    image: Image
    op: Op
    place: int


class Engine:
    """`submit` from any thread; `run` is the device thread's whole life."""

    def __init__(self, devices: Mapping[str, Device], max_batch: int, max_batch_pixels: int) -> None:
        self._devices = devices
        self._max_batch = max_batch
        self._max_batch_pixels = max_batch_pixels
        self._inbox: SimpleQueue[Image | None] = SimpleQueue()
        self._ready: list[ReadyOp] = []
        self._stopped = False

    def submit(self, image: Image) -> None:
        """Give the device an image; its `outcome` tells how it went."""
        self._inbox.put(image)

    def stop(self) -> None:
        """End `run` after the batch at hand; images that are not done stay so."""
        self._stopped = True
        self._inbox.put(None)

    def run(self) -> None:
        """Work until stopped; sleep while there is nothing to do."""
        with torch.no_grad():
            while not self._stopped:
                self._take_in(wait=not self._ready)
                self.step()

    def step(self) -> None:
        """One batch: pick it, run it, hand the results back to the images."""
        self._ready = [ready for ready in self._ready if not ready.image.outcome.cancelled()]
        batch = pick(self._ready, self._max_batch, self._max_batch_pixels, time.monotonic())
        if not batch:
            return
        taken = set(map(id, batch))
        self._ready = [ready for ready in self._ready if id(ready) not in taken]
        for ready, result in zip(batch, self._execute(batch), strict=True):
            self._receive(ready, result)

    def _take_in(self, *, wait: bool) -> None:
        while wait or not self._inbox.empty():
            image = self._inbox.get()
            wait = False
            if image is not None:
                self._advance(image, None)

    def _execute(self, batch: Sequence[ReadyOp]) -> list[Tensor | Exception]:
        """The batch's results; when it fails, each op alone, so that only the culprit's image fails."""
        device = self._devices[batch[0].image.variant]
        began = time.monotonic()
        results: list[Tensor | Exception]
        try:
            results = list(device.execute([ready.op for ready in batch]))
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # times and errors belong to this batch, not to a later one
        except Exception as error:  # noqa: BLE001 — whatever it is, it is the image's fate, not the worker's
            if len(batch) == 1:
                return [error]
            _log.warning("batch failed, running its ops one by one", size=len(batch), error=repr(error))
            return [result for ready in batch for result in self._execute([ready])]
        share = (time.monotonic() - began) / len(batch)
        stage = batch[0].stage.name.lower()
        for ready in batch:
            ready.image.seconds[stage] = ready.image.seconds.get(stage, 0.0) + share
        return results

    def _receive(self, ready: ReadyOp, result: Tensor | Exception) -> None:
        image = ready.image
        if image.outcome.done():
            return
        if isinstance(result, Exception):
            self._fail(image, result)
            return
        image.results[ready.place] = result
        if ready.stage is Stage.PREDICT:
            image.tiles_done += 1
            image.on_tile(image.tiles_done)
        complete = [each for each in image.results if each is not None]
        if len(complete) == len(image.results):
            self._advance(image, complete)

    def _advance(self, image: Image, results: Sequence[Tensor] | None) -> None:
        try:
            ops = next(image.steps) if results is None else image.steps.send(results)
        except StopIteration as end:
            with suppress(Exception):  # cancelled in this very moment
                image.outcome.set_result(end.value)
        except Exception as error:  # noqa: BLE001 — as above
            self._fail(image, error)
        else:
            image.results = [None] * len(ops)
            now = time.monotonic()
            self._ready += [
                ReadyOp((image.variant, *op.key), _stage(op), image.priority, now, _pixels(op), image, op, place)
                for place, op in enumerate(ops)
            ]

    def _fail(self, image: Image, error: Exception) -> None:
        self._ready = [ready for ready in self._ready if ready.image is not image]
        with suppress(Exception):  # cancelled in this very moment
            image.outcome.set_exception(error)


def _stage(op: Op) -> Stage:
    match op:
        case Decode():
            return Stage.DECODE
        case Predict():
            return Stage.PREDICT
    return Stage.ENCODE


def _pixels(op: Op) -> int:
    """An image as a whole can be of any size; a tile has the one size of its variant."""
    match op:
        case Encode():
            return math.prod(op.tensor.shape[-2:])
        case Decode():
            return math.prod(op.tensor.shape[-2:]) * LATENT**2
    return 0
