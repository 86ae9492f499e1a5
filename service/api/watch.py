"""The jobs that this process has an eye on: how they end, and word to the queue that somebody waits."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from service.errors import JobNotFound, Unavailable
from service.job import Job, JobStatus
from service.queue.queue import Queue
from service.telemetry import record_finished

_log = structlog.get_logger(__name__)


@contextmanager
def just_in_line(job_id: str) -> Iterator[None]:
    """Who put the job in line a moment ago has its id right: the queue's server has lost it, and takes it again.

    Raises Unavailable in place of JobNotFound.
    """
    try:
        yield
    except JobNotFound as error:
        raise Unavailable(f"The queue has lost the job {job_id}.", "Send the photo again.") from error


class Watch:
    """Waits for each job's end beside whoever asked for it, and counts it: once, whoever fetches the result."""

    def __init__(self, queue: Queue, attend_s: float) -> None:
        self._queue = queue
        self._attend_s = attend_s
        self._tasks: set[asyncio.Task[JobStatus]] = set()
        self._attended: set[str] = set()
        self._attending: asyncio.Task[None] | None = None

    def begin(self, job: Job) -> asyncio.Task[JobStatus]:
        """The end of a job that is new in line."""
        if job.attended:
            self._attended.add(job.id)
            self._attending = self._attending or asyncio.create_task(self._attend())
        return self._start(self._counted(job.id))

    def join(self, job: Job) -> asyncio.Task[JobStatus]:
        """The end of a job that another request began, and which is counted there."""
        return self._start(self._end(job.id))

    def close(self) -> None:
        """Watch no more."""
        for task in [*self._tasks, *([self._attending] if self._attending else [])]:
            task.cancel()

    def _start(self, waiting: Coroutine[Any, Any, JobStatus]) -> asyncio.Task[JobStatus]:
        task = asyncio.create_task(waiting)
        self._tasks.add(task)
        task.add_done_callback(self._seen)
        return task

    def _seen(self, task: asyncio.Task[JobStatus]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("lost sight of a job", error=repr(error))

    async def _end(self, job_id: str) -> JobStatus:
        with just_in_line(job_id):
            return await self._queue.wait(job_id)

    async def _counted(self, job_id: str) -> JobStatus:
        try:
            status = await self._end(job_id)
        finally:
            self._attended.discard(job_id)
        record_finished(status)
        _log.info(
            "job finished",
            job=job_id,
            request_id=status.job.request_id,
            state=status.state.value,
            attempt=status.attempt,
            error=status.error.detail if status.error else None,
        )
        return status

    async def _attend(self) -> None:
        while True:
            if waited_for := list(self._attended):
                try:
                    await self._queue.attend(waited_for, self._attend_s)
                except Unavailable as error:
                    _log.warning("the queue was not told who waits", error=error.detail)
            await asyncio.sleep(self._attend_s / 3)
