"""The jobs that a worker has leased: each from its lease to its end, in one task."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from service.errors import BadRequest, ProcessingFailed, ServiceError, Unavailable
from service.job import JobState, Leased, Result
from service.queue.queue import Queue
from service.telemetry import DEAD, RETRIES, record_stages
from service.tracing import span
from service.worker.execution import DeviceLost
from service.worker.imaging import ImageWork
from service.worker.progress import Progress

QUEUE_PAUSE_S = 0.5

_log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(eq=False)
class InHand:
    """A job that the worker has leased, and how much of it is still to do."""

    leased: Leased
    task: asyncio.Task[None] = field(init=False)
    tiles: int = 0
    tiles_left: int = 0


class Jobs:
    """Takes leased jobs and sees each to its end: finished, failed, dropped, or given back."""

    def __init__(self, queue: Queue, work: ImageWork, max_batch: int) -> None:
        self._queue = queue
        self._work = work
        self._ahead = 2 * max_batch
        self._by_id: dict[str, InHand] = {}
        self._freed = asyncio.Event()
        self._had_room = True
        self.news = asyncio.Event()
        """Set when there is room again."""

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """One for each job that has not ended."""
        return [job.task for job in self._by_id.values()]

    @property
    def held(self) -> dict[str, int]:
        """Attempt by job id."""
        return {job_id: job.leased.attempt for job_id, job in self._by_id.items()}

    def start(self, leased: Leased) -> None:
        """Begin with a job."""
        # A job that was lost and comes back while its old attempt still winds up here replaces that attempt.
        if before := self._by_id.get(leased.job.id):
            before.task.cancel()
        job = InHand(leased)
        self._by_id[leased.job.id] = job
        job.task = asyncio.create_task(self._process(job))
        job.task.add_done_callback(lambda _: self._forget(job))
        self._stir()

    @property
    def has_room(self) -> bool:
        """About two batches ahead: enough to fill the next one, few to lose. A suspect stays alone."""
        tiles_left = sum(job.tiles_left for job in self._by_id.values())
        return not self._has_suspect and len(self._by_id) < self._ahead and tiles_left < self._ahead

    @property
    def _has_suspect(self) -> bool:
        return any(job.leased.suspect for job in self._by_id.values())

    @property
    def not_from(self) -> Collection[str] | None:
        """The clients whose jobs may not be leased now: while there is no room, those who have some; None: all.

        So whoever comes new need not wait until the images of a flood have left.
        """
        if self.has_room:
            return ()
        if self._has_suspect or len(self._by_id) >= 2 * self._ahead:
            return None
        return {job.leased.job.client for job in self._by_id.values()}

    def drop(self, job_id: str, attempt: int) -> None:
        """Let go of an attempt that the queue says is over."""
        job = self._by_id.get(job_id)
        if job and job.leased.attempt == attempt:
            _log.info("job dropped", job=job_id, attempt=attempt, why="cancelled, or lost to another worker")
            job.task.cancel()

    # One job --------------------------------------------------------------------------------------------------------

    async def _process(self, mine: InHand) -> None:
        leased, job = mine.leased, mine.leased.job
        structlog.contextvars.bind_contextvars(request_id=job.request_id, job=job.id, attempt=leased.attempt)
        began = time.monotonic()
        with span("job", traceparent=job.traceparent, job=job.id, model=job.options.model):
            try:
                result = await self._make(mine)
            except DeviceLost:
                await self._insist(lambda: self._queue.release(job.id, leased.attempt))
            except Exception as error:  # noqa: BLE001 — the job's fate, not the worker's
                await self._fail(leased, error)
            else:
                if result is None:
                    _log.info("job dropped", why="it was ended by another")
                    return
                kept = await self._insist(lambda: self._queue.finish(job.id, leased.attempt, result))
                _log.info("image done" if kept else "image came too late", seconds=round(time.monotonic() - began, 3))
                record_stages(job.options.model, result.seconds)

    async def _make(self, mine: InHand) -> Result | None:
        """The job's result; None when the job ended meanwhile: cancelled by its client, or past its deadline."""
        leased, job = mine.leased, mine.leased.job

        async def tell(tiles_done: int) -> None:
            mine.tiles_left = mine.tiles - tiles_done
            self._stir()
            await self._insist(lambda: self._queue.progress(job.id, leased.attempt, tiles_done, mine.tiles))

        progress = Progress(tell)
        image = self._work.plan(job, progress.tell)
        mine.tiles = mine.tiles_left = image.tiles
        with self._queue.watch_called_off(job.id) as ended:
            if leased.suspect:  # should it kill the worker again, it takes no other with it
                await self._until(lambda: len(self._by_id) == 1)
            progress.tell(0)
            return await _unless(ended, self._work.upscale(leased, image))

    async def _fail(self, leased: Leased, error: Exception) -> None:
        job, retry = leased.job, isinstance(error, Unavailable | OSError)
        if isinstance(error, ServiceError):
            problem = error.problem()
            _log.warning("image failed", error=error.detail)
        else:
            problem = ProcessingFailed("The worker could not make this image; its log has the cause.").problem()
            _log.error("image failed", exc_info=error)
        dead = not retry and not isinstance(error, BadRequest)  # ours to look at, not the client's to mend
        state = await self._insist(lambda: self._queue.fail(job.id, leased.attempt, problem, retry=retry, dead=dead))
        if state is JobState.QUEUED:
            RETRIES.inc()
        elif state is JobState.FAILED and (retry or dead):
            DEAD.inc()

    # ----------------------------------------------------------------------------------------------------------------

    def _stir(self) -> None:
        self._freed.set()
        had_room, self._had_room = self._had_room, self.has_room
        if self._had_room and not had_room:
            self.news.set()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._freed.clear()
            await self._freed.wait()

    def _forget(self, job: InHand) -> None:
        if self._by_id.get(job.leased.job.id) is job:
            del self._by_id[job.leased.job.id]
        self._stir()

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until the queue answers; a result must not be lost to a short outage."""
        while True:
            try:
                return await call()
            except Unavailable as error:
                _log.warning("queue unreachable, trying on", detail=error.detail)
                await asyncio.sleep(QUEUE_PAUSE_S)


async def _unless(ended: asyncio.Event, work: Awaitable[T]) -> T | None:
    """What the work comes to; None, and the work is cancelled, when the event comes first."""
    working, ending = asyncio.ensure_future(work), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        ending.cancel()
        working.cancel()
