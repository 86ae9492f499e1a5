"""A worker process: leases jobs, feeds the device thread, puts results away, and leaves in good order."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import structlog

from model.pipeline import OMGSRPipeline
from service.errors import ProcessingFailed, ServiceError, Unavailable
from service.job import Leased
from service.queue.blobs import BlobStore
from service.queue.queue import Queue
from service.queue.sweep import sweep
from service.settings import Settings
from service.telemetry import configure_logging
from service.worker.engine import Engine
from service.worker.imaging import ImageWork
from service.worker.progress import Progress
from service.worker.variants import info, load_variants

QUEUE_PAUSE_S = 0.5
RECLAIM_S = 1.0
SWEEP_S = 60.0
END_S = 0.5
LAST_BATCH_S = 20.0

_log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(eq=False)
class InHand:
    """A job that the worker has leased, and how much of it is still to do."""

    leased: Leased
    task: asyncio.Task[None] = field(init=False)
    tiles: int = 0
    tiles_left: int = 0


class Worker:
    """Serves all its variants from one device. `run` returns when it was told to stop and has drained."""

    def __init__(self, settings: Settings, queue: Queue, pipes: dict[str, OMGSRPipeline]) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._settings = settings
        self._queue = queue
        self._variants = [info(pipe) for pipe in pipes.values()]
        self._blobs = BlobStore(settings.blobs)
        self._engine = Engine(pipes, settings.max_batch, settings.max_batch_pixels)
        self._pool = ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2), thread_name_prefix="files")
        self._work = ImageWork(settings, pipes, self._blobs, self._engine, self._pool)
        self._jobs: dict[str, InHand] = {}
        self._freed = asyncio.Event()
        self._leasing = asyncio.Lock()
        self._registered = False
        self._seen = "0"

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain."""
        beat = self._settings.lease_s / 3
        taking = asyncio.create_task(self._every(0, self._take))
        device = asyncio.create_task(self._device())
        others = [
            asyncio.create_task(self._every(beat, self._register)),
            asyncio.create_task(self._every(beat, self._renew)),
            asyncio.create_task(self._every(min(RECLAIM_S, beat), self._reclaim)),
            asyncio.create_task(self._every(min(SWEEP_S, self._settings.result_ttl_s), self._sweep)),
        ]
        stopping = asyncio.create_task(stop.wait())
        ended, _ = await asyncio.wait([stopping, taking, device, *others], return_when=asyncio.FIRST_COMPLETED)
        async with self._leasing:  # a lease on its way is let through: its answer would be lost, not the lease
            await _end([taking])
        await self._drain()
        await _end([stopping, *others])
        await self._leave()
        # An interpreter that ends under a thread at work in torch aborts: let the batch at hand end.
        if not (await asyncio.wait([device], timeout=LAST_BATCH_S))[0]:
            _log.error("the device thread does not end, leaving without it")
            os._exit(1)
        for task in ended - {stopping}:  # a loop ends by a fault only
            task.result()

    # What it does again and again ---------------------------------------------------------------------------------

    async def _register(self) -> None:
        await self._queue.register(self.name, self._variants, self._settings.lease_s)
        if not self._registered:
            self._registered = True
            _log.info("worker ready", worker=self.name, models=[variant.name for variant in self._variants])

    async def _take(self) -> None:
        await self._until(self._has_room)
        names = [variant.name for variant in self._variants]
        async with self._leasing:
            leased = await self._queue.lease(names, self.name, 1)
            for each in leased:
                self._start(each)
        if not leased:
            self._seen = await self._queue.arrival(self._seen)

    def _has_room(self) -> bool:
        """About two batches ahead: enough to fill the next one, few to lose. A suspect stays alone."""
        jobs, ahead = self._jobs.values(), 2 * self._settings.max_batch
        if any(job.leased.suspect for job in jobs):
            return False
        return len(jobs) < ahead and sum(job.tiles_left for job in jobs) < ahead

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._freed.clear()
            await self._freed.wait()

    def _start(self, leased: Leased) -> None:
        # A job that was lost and comes back while its old attempt still winds up here replaces that attempt.
        if before := self._jobs.get(leased.job.id):
            before.task.cancel()
        job = InHand(leased)
        self._jobs[leased.job.id] = job
        job.task = asyncio.create_task(self._process(job))
        job.task.add_done_callback(lambda _: self._forget(job))

    def _forget(self, job: InHand) -> None:
        if self._jobs.get(job.leased.job.id) is job:
            del self._jobs[job.leased.job.id]
        self._freed.set()

    async def _renew(self) -> None:
        held = {job_id: job.leased.attempt for job_id, job in self._jobs.items()}
        if not held:
            return
        still = await self._queue.renew(held)
        for job_id in held.keys() - still:
            job = self._jobs.get(job_id)
            if job and job.leased.attempt == held[job_id]:
                _log.info("job dropped", job=job_id, attempt=held[job_id], why="cancelled, or lost to another worker")
                job.task.cancel()

    async def _reclaim(self) -> None:
        if count := await self._queue.reclaim():
            _log.warning("jobs of silent workers taken back", count=count)

    async def _sweep(self) -> None:
        try:
            count = await sweep(self._blobs, self._queue, self._settings.result_ttl_s)
        except OSError as error:  # a store out of order for a while: the next sweep removes what this one left
            _log.warning("files of forgotten jobs are not removed", error=repr(error))
        else:
            if count:
                _log.info("files of forgotten jobs removed", jobs=count)

    async def _device(self) -> None:
        """The device thread, as a task that ends with it."""
        ended: Future[None] = Future()

        def run() -> None:
            try:
                self._engine.run()
                ended.set_result(None)
            except BaseException as error:  # noqa: BLE001 — told to the event loop, which ends the worker
                ended.set_exception(error)

        threading.Thread(target=run, name="device", daemon=True).start()
        await asyncio.wrap_future(ended)

    # One job --------------------------------------------------------------------------------------------------------

    async def _process(self, mine: InHand) -> None:
        leased, job = mine.leased, mine.leased.job
        structlog.contextvars.bind_contextvars(request_id=job.request_id, job=job.id, attempt=leased.attempt)
        began = time.monotonic()

        async def tell(tiles_done: int) -> None:
            mine.tiles_left = mine.tiles - tiles_done
            self._freed.set()
            await self._insist(lambda: self._queue.progress(job.id, leased.attempt, tiles_done, mine.tiles))

        try:
            mine.tiles = mine.tiles_left = self._work.tiles(job)
            if leased.suspect:  # should it kill the worker again, it takes no other with it
                await self._until(lambda: len(self._jobs) == 1)
            await tell(0)
            result = await self._work.upscale(leased, Progress(tell).tell)
        except Exception as error:  # noqa: BLE001 — the job's fate, not the worker's
            await self._fail(leased, error)
            return
        kept = await self._insist(lambda: self._queue.finish(job.id, leased.attempt, result))
        _log.info("image done" if kept else "image came too late", seconds=round(time.monotonic() - began, 3))

    async def _fail(self, leased: Leased, error: Exception) -> None:
        retry = isinstance(error, Unavailable | OSError)
        if isinstance(error, ServiceError):
            problem = error.problem()
            _log.warning("image failed", error=error.detail)
        else:
            problem = ProcessingFailed("The worker could not make this image; its log has the cause.").problem()
            _log.error("image failed", exc_info=error)
        await self._insist(lambda: self._queue.fail(leased.job.id, leased.attempt, problem, retry=retry))

    # The end --------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Let what runs come to its end within the time given."""
        tasks = [job.task for job in self._jobs.values()]
        _log.info("draining", jobs=len(tasks))
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.drain_s)

    async def _leave(self) -> None:
        """Give back what did not get done, and go."""
        left = [job.leased for job in self._jobs.values()]
        await _end([job.task for job in self._jobs.values()])
        self._engine.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with suppress(Unavailable):  # then their leases run out, and so does the worker's own
            for leased in left:
                await self._queue.release(leased.job.id, leased.attempt)
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

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until the queue answers; a result must not be lost to a short outage."""
        while True:
            try:
                return await call()
            except Unavailable as error:
                _log.warning("queue unreachable, trying on", detail=error.detail)
                await asyncio.sleep(QUEUE_PAUSE_S)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they have ended: one cancellation may be lost inside the queue's client."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=END_S)


def run_worker(settings: Settings) -> None:
    """Load all variants, then work until SIGTERM or Ctrl-C."""
    configure_logging(settings.log_level)
    asyncio.run(_serve(settings, load_variants(settings)))


async def _serve(settings: Settings, pipes: dict[str, OMGSRPipeline]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Queue.of(settings) as queue:
        await Worker(settings, queue, pipes).run(stop)
