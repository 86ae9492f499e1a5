"""The device thread: takes the ops of many images, runs them in batches, hands the results back."""

import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

from model.upscale import Steps
from service.errors import OutOfMemory, Unavailable
from service.telemetry import BATCH_DURATION, BATCH_FILL, BATCH_SIZE, BATCH_WAIT, DEVICE_MEMORY, TILES
from service.worker.batching import Policy, Stage, pick
from service.worker.execution import DeviceLost, run_batch, told
from service.worker.image import Device, Image, ReadyOp, ready_ops
from service.worker.shares import Shares

REST_S = 30.0
STARVED = 3
"""So many images in a row that ran out of memory alone: the memory is not theirs to be had, it has leaked."""


class Engine:
    """`expect` and `submit` from any thread; `run` is the device thread's whole life."""

    def __init__(
        self,
        devices: Mapping[str, Device],
        policy: Policy,
        *,
        budget_bytes: int,
        max_batch_pixels: int,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        self._devices = devices
        self._policy = policy
        self._rest, self._rested = rest, False
        self._budget = budget_bytes
        self._max_batch_pixels = max_batch_pixels
        self._inbox: SimpleQueue[Image | None] = SimpleQueue()
        self._images: dict[Image, None] = {}  # in order of arrival
        self._ready: list[ReadyOp] = []
        self._shares = Shares()
        self._starved = 0
        self._full_at = -math.inf
        """When an image last had to wait for memory."""
        self._busy_since: float | None = None
        self._stopped = False
        self._lost: DeviceLost | None = None

    def expect(self, image: Image) -> None:
        """Say that an image is on its way to the device: a batch that it could fill waits a moment for it."""
        self._put(image)

    def submit(self, image: Image, begin: Callable[[], Steps]) -> None:
        """Give the device an image; its `outcome` tells how it went."""
        image.since, image.begin = time.monotonic(), begin
        self._put(image)

    def stop(self) -> None:
        """End `run` after the batch at hand; images that are not done stay so."""
        self._stopped = True
        self._inbox.put(None)

    @property
    def busy_s(self) -> float:
        """For how long the device thread has been at one step; 0 while it waits for work."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def run(self) -> None:
        """Work until stopped; sleep while there is nothing to do. Raises DeviceLost when the device is of no more use.

        Images that are not done then fail with DeviceLost too.
        """
        try:
            with torch.no_grad():
                while not self._stopped:
                    self._take_in(until=time.monotonic())
                    self.step()
        except BaseException as error:
            self._lost = error if isinstance(error, DeviceLost) else DeviceLost(f"The device thread failed: {error!r}")
            self._take_in(until=time.monotonic())
            for image in self._images:
                _settle(image, self._lost)
            raise

    def step(self) -> None:
        """One batch: start what fits in memory, pick, run, hand the results back; or wait for what is to come."""
        self._forget_cancelled()
        self._start_what_fits()
        choice = pick(
            self._ready,
            self._policy,
            free_bytes=self._budget - self._held(),
            used=self._shares.used,
            crowding=self._shares.crowding(self._policy.max_batch),
            coming=self._coming(),
            now=time.monotonic(),
        )
        if not choice.batch:
            self._wait(choice.look_again)
            return
        self._rested = False
        self._shares.turn(choice.batch[0].client)
        taken = set(map(id, choice.batch))
        self._ready = [ready for ready in self._ready if id(ready) not in taken]
        for ready, result in zip(choice.batch, self._execute(choice.batch), strict=True):
            self._receive(ready, result)

    def _wait(self, until: float | None) -> None:
        """For what comes. After REST_S without work, `rest`: between two requests it would only cost time."""
        if self._images or self._rested:
            self._take_in(until=until)
            return
        self._take_in(until=time.monotonic() + REST_S)
        if not self._images and not self._stopped:
            self._rest()
            self._rested = True

    def _put(self, image: Image) -> None:
        self._inbox.put(image)
        if self._lost:
            _settle(image, self._lost)

    # What comes in -------------------------------------------------------------------------------------------------

    def _take_in(self, *, until: float | None) -> None:
        """All that has come by now; wait for the first until then (None: without end)."""
        timeout = None if until is None else max(0.0, until - time.monotonic())
        self._busy_since = None
        with suppress(Empty):
            while True:
                image = self._inbox.get(timeout=timeout) if timeout != 0 else self._inbox.get_nowait()
                timeout = 0
                if image is not None and image not in self._images and not image.outcome.done():
                    self._images[image] = None
                    self._shares.enter(image.client, image.tiles)
        self._busy_since = time.monotonic()

    def _start_what_fits(self) -> None:
        """In order of arrival; one that must wait for memory holds back those behind it, or it might wait for ever."""
        for image in list(self._images):
            if image.steps is not None or image.begin is None:
                continue
            if not self._fits(image):
                self._full_at = time.monotonic()
                return
            try:
                image.steps = image.begin()
            except Exception as error:  # noqa: BLE001 — the image's fate, not the worker's
                self._fail(image, told(error))
                continue
            TILES.labels(image.variant).observe(image.tiles)
            DEVICE_MEMORY.labels("images").set(self._held())
            self._advance(image, None, Stage.ENCODE)

    def _fits(self, image: Image) -> bool:
        """Whether it, and every image that runs already, could still run its largest op."""
        running = [each for each in self._images if each.steps is not None]
        largest = max(each.lone_bytes - each.held_bytes for each in [*running, image])
        return self._held() + image.held_bytes + largest <= self._budget

    def _held(self) -> int:
        return sum(image.held_bytes for image in self._images if image.steps is not None)

    def _coming(self) -> Counter[Hashable]:
        """Ops by group that will become ready without those of the group itself, and without more memory."""
        coming: Counter[Hashable] = Counter()
        for image in self._images:
            if image.steps is None and image.begin is not None:
                continue
            for work in image.ahead:
                if (group := image.group_of(work)) != image.group:
                    coming[group] += work.count
        return coming

    # What comes out ------------------------------------------------------------------------------------------------

    def _execute(self, batch: Sequence[ReadyOp]) -> list[Tensor | Exception]:
        model, stage = batch[0].image.variant, batch[0].stage
        began = time.monotonic()
        for ready in batch:
            BATCH_WAIT.labels(model, stage.word).observe(began - ready.since)
        try:
            results = run_batch(self._devices[model], [ready.op for ready in batch])
        except DeviceLost as error:
            for ready in batch:  # one of them may be the cause: it counts as an attempt
                self._fail(ready.image, Unavailable(error.detail))
            raise
        seconds = time.monotonic() - began
        for ready in batch:
            self._charge(ready.image, stage, seconds / len(batch))
        BATCH_SIZE.labels(model, stage.word).observe(len(batch))
        BATCH_FILL.labels(model, stage.word).observe(len(batch) / self._policy.max_batch)
        BATCH_DURATION.labels(model, stage.word).observe(seconds)
        return results

    def _charge(self, image: Image, stage: Stage, seconds: float) -> None:
        image.seconds[stage.word] = image.seconds.get(stage.word, 0.0) + seconds
        self._shares.charge(image.client, seconds / image.weight)

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
            self._advance(image, complete, ready.stage)

    def _advance(self, image: Image, results: Sequence[Tensor] | None, stage: Stage) -> None:
        """On to the image's next ops, or to its end; what its pixels take between two stages counts as the first's."""
        assert image.steps is not None
        began = time.monotonic()
        try:
            ops = next(image.steps) if results is None else image.steps.send(results)
        except StopIteration as end:
            self._charge(image, stage, time.monotonic() - began)
            self._starved = 0
            self._forget(image)
            _settle(image, end.value)
        except Exception as error:  # noqa: BLE001 — as above
            self._fail(image, told(error))
        else:
            self._charge(image, stage, time.monotonic() - began)
            image.results = [None] * len(ops)
            image.ahead = image.ahead[1:]
            since = max(image.since, self._full_at) if results is None else time.monotonic()
            self._ready += ready_ops(image, ops, self._max_batch_pixels, since)

    def _fail(self, image: Image, error: Exception) -> None:
        self._forget(image)
        _settle(image, error)
        self._starved += isinstance(error, OutOfMemory)
        if self._starved >= STARVED:
            raise DeviceLost(f"{STARVED} images in a row ran out of device memory, each alone in its batch.")

    def _forget_cancelled(self) -> None:
        for image in [image for image in self._images if image.outcome.done()]:
            self._forget(image)

    def _forget(self, image: Image) -> None:
        if image in self._images:
            del self._images[image]
            self._shares.leave(image.client, image.tiles)
            self._ready = [ready for ready in self._ready if ready.image is not image]
            DEVICE_MEMORY.labels("images").set(self._held())


def _settle(image: Image, outcome: Tensor | Exception) -> None:
    with suppress(InvalidStateError):  # cancelled in this very moment
        if isinstance(outcome, Exception):
            image.outcome.set_exception(outcome)
        else:
            image.outcome.set_result(outcome)
