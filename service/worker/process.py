"""A worker process: leases jobs, feeds the device thread, watches over it, and leaves in good order."""

import asyncio
import gc
import os
import random
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import uuid4

import structlog

from service.errors import Unavailable
from service.queue.blobs import BlobStore
from service.queue.queue import Queue
from service.queue.sweep import sweep
from service.settings import Settings
from service.telemetry import DEAD, DEVICE_MEMORY, RETRIES, configure_logging
from service.tracing import configure_tracing
from service.worker.batching import Policy
from service.worker.engine import Engine
from service.worker.heap import give_back
from service.worker.imaging import ImageWork
from service.worker.jobs import QUEUE_PAUSE_S, Jobs
from service.worker.listener import Health, listening
from service.worker.served import Models

RECLAIM_S = 1.0
SWEEP_S = 5.0
WATCH_S = 1.0
WITHDRAW_S = 2.0
END_S = 0.5
LAST_BATCH_S = 20.0
LONGEST_PAUSE_S = 0.5
"""Between two looks of a worker for what has arrived, however many workers there are."""

_log = structlog.get_logger(__name__)


class Worker:
    """Serves all its variants from one device.

    `run` returns when it was told to stop and has drained. It raises DeviceLost, its jobs given back, when the device
    is of no more use; a device that hangs for twice the watchdog's time ends the whole process. Either way the
    supervisor, or the orchestrator, starts a new one.
    """

    def __init__(self, settings: Settings, queue: Queue, models: Models) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self.health = Health()
        self._settings = settings
        self._queue = queue
        self._models = models
        self._variants = [each.info for each in models.served.values()]
        self._blobs = BlobStore(settings.blobs)
        self._engine = Engine(
            {name: each.pipe for name, each in models.served.items()},
            Policy(settings.max_batch, settings.max_wait_ms / 1000),
            budget_bytes=models.budget_bytes,
            max_batch_pixels=settings.max_batch_pixels,
            rest=self._rest,
        )
        self._pool = ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2), thread_name_prefix="files")
        self._jobs = Jobs(queue, ImageWork(settings, models, self._blobs, self._engine, self._pool), settings.max_batch)
        self._leasing = asyncio.Lock()
        self._well = asyncio.Event()
        self._well.set()
        self._seen = "0"
        self._others = 0
        """Workers alive beside this one."""
        DEVICE_MEMORY.labels("budget").set(models.budget_bytes)
        DEVICE_MEMORY.labels("models").set(models.weight_bytes)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, or the device is lost; then drain."""
        beat = self._settings.lease_s / 3
        taking = asyncio.create_task(self._every(0, self._take))
        device = asyncio.create_task(self._device())
        beating = asyncio.create_task(self._every(beat, self._register))
        others = [
            asyncio.create_task(self._every(0, self._listen)),
            asyncio.create_task(self._every(beat, self._renew)),
            asyncio.create_task(self._every(min(WATCH_S, self._settings.watchdog_s / 4), self._watch)),
            asyncio.create_task(self._every(min(RECLAIM_S, beat), self._reclaim)),
            asyncio.create_task(self._every(min(SWEEP_S, self._settings.result_ttl_s), self._sweep)),
        ]
        stopping = asyncio.create_task(stop.wait())
        running = [stopping, taking, device, beating, *others]
        ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        self.health.say(ready=False)
        await _end([beating])
        await self._withdraw()
        async with self._leasing:  # a lease on its way is let through: its answer would be lost, not the lease
            await _end([taking])
        await self._drain()
        await _end([stopping, *others])
        await self._leave()
        # An interpreter that ends under a thread at work in torch aborts: let the batch at hand end.
        if not (await asyncio.wait([device], timeout=LAST_BATCH_S))[0]:
            _log.error("the device thread does not end, leaving without it")
            os._exit(1)
        for task in [device, *(ended - {stopping})]:  # a loop ends by a fault only
            task.result()

    # What it does again and again ---------------------------------------------------------------------------------

    async def _register(self) -> None:
        if self.health.stuck:
            return
        self._others = await self._queue.register(self.name, self._variants, self._settings.lease_s) - 1
        if not self.health.ready:
            for name, each in self._models.served.items():
                await self._queue.calibrate(name, each.seconds_per_megapixel)
            self.health.say(ready=True)
            _log.info("worker ready", worker=self.name, models=[variant.name for variant in self._variants])

    async def _take(self) -> None:
        await self._well.wait()
        news = self._jobs.news
        news.clear()
        leased, but = [], self._jobs.not_from
        if but is not None:
            names = [variant.name for variant in self._variants]
            async with self._leasing:
                leased = await self._queue.lease(names, self.name, 1, but=but)
                for each in leased:
                    self._jobs.start(each)
        if not leased:
            await news.wait()

    async def _listen(self) -> None:
        self._seen = await self._queue.arrival(self._seen)
        self._jobs.news.set()
        # One of all workers that looks for what came every `max_wait_ms` is enough; a worker that is full looks for a
        # stranger's job only. All were woken by the same arrival: each pauses for another time, else none listens.
        turns = self._others + (not self._jobs.has_room)
        await asyncio.sleep(random.uniform(0, min(2 * turns * self._settings.max_wait_ms / 1000, LONGEST_PAUSE_S)))

    async def _renew(self) -> None:
        held = self._jobs.held
        if not held or self.health.stuck:
            return
        still = await self._queue.renew(held)
        for job_id in held.keys() - still:
            self._jobs.drop(job_id, held[job_id])

    async def _watch(self) -> None:
        """A device that hangs keeps no job: this worker falls silent, and others take them back."""
        busy_s, limit_s = self._engine.busy_s, self._settings.watchdog_s
        if busy_s > 2 * limit_s:
            _log.error("the device hangs still, leaving to be started again", seconds=round(busy_s))
            os._exit(1)
        stuck = busy_s > limit_s
        if stuck == self.health.stuck:
            return
        self.health.say(stuck=stuck)
        if stuck:
            self._well.clear()
            _log.error("one batch takes too long: unhealthy, its jobs are left to other workers", seconds=round(busy_s))
            await self._withdraw()
        else:
            self._well.set()
            _log.warning("the device works again")

    async def _reclaim(self) -> None:
        found = await self._queue.reclaim()
        RETRIES.inc(found.requeued)
        DEAD.inc(found.dead)
        if found.requeued or found.dead:
            _log.warning("jobs of silent workers taken back", count=found.requeued, given_up=found.dead)
        if found.expired or found.abandoned:
            _log.info("jobs wanted no more", expired=found.expired, abandoned=found.abandoned)

    async def _sweep(self) -> None:
        try:
            count = await sweep(self._blobs, self._queue, self._settings.result_ttl_s)
        except OSError as error:  # a store out of order for a while: the next sweep removes what this one left
            _log.warning("files of forgotten jobs are not removed", error=repr(error))
        else:
            if count:
                _log.info("files of forgotten jobs removed", jobs=count)

    def _rest(self) -> None:
        """On the device thread, after a while without work."""
        for each in self._models.served.values():
            each.pipe.rest()
        give_back()

    async def _device(self) -> None:
        """The device thread, as a task that ends with it."""
        ended: Future[None] = Future()

        def run() -> None:
            try:
                self._engine.run()
                ended.set_result(None)
            except BaseException as error:  # noqa: BLE001 — told to the event loop, which ends the worker
                _log.error("the device thread ended", error=str(error))
                ended.set_exception(error)

        threading.Thread(target=run, name="device", daemon=True).start()
        await asyncio.wrap_future(ended)

    # The end --------------------------------------------------------------------------------------------------------

    async def _withdraw(self) -> None:
        """Count as alive no more, at once; what it serves stays known, as a replacement may be on its way."""
        with suppress(Unavailable, TimeoutError):  # then it counts until its last beat runs out
            async with asyncio.timeout(WITHDRAW_S):
                await self._queue.register(self.name, [], 0)

    async def _drain(self) -> None:
        """Let what runs come to its end within the time given."""
        tasks = self._jobs.tasks
        _log.info("draining", jobs=len(tasks))
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.drain_s)

    async def _leave(self) -> None:
        """Give back what did not get done, and go."""
        left = self._jobs.held
        await _end(self._jobs.tasks)
        self._engine.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with suppress(Unavailable):  # then their leases run out, and so does the worker's own
            for job_id, attempt in left.items():
                await self._queue.release(job_id, attempt)
            await self._queue.register(self.name, self._variants, 0)

    # ----------------------------------------------------------------------------------------------------------------

    async def _every(self, pause: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
                await asyncio.sleep(pause)
            except Unavailable as error:
                _log.warning("queue unreachable", detail=error.detail)
                await asyncio.sleep(max(pause, QUEUE_PAUSE_S))


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they have ended: one cancellation may be lost inside the queue's client."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=END_S)


def run_worker(settings: Settings) -> None:
    """Load all variants, then work until SIGTERM or Ctrl-C."""
    from service.worker.variants import load_models

    configure_logging(settings.log_level)
    configure_tracing("worker")
    asyncio.run(serve(settings, load_models(settings)))


async def serve(settings: Settings, models: Models) -> None:
    """Be a worker of these models until SIGTERM or Ctrl-C."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gc.collect()
    gc.freeze()  # what was loaded stays: looking through it again and again would hold up every thread
    async with Queue.of(settings) as queue:
        worker = Worker(settings, queue, models)
        async with listening(settings, worker.health):
            await worker.run(stop)
