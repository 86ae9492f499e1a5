"""A job's events as server-sent ones: a client that comes back with `Last-Event-ID` misses nothing."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable
from typing import cast

from service.api.views import EventView
from service.errors import BadRequest, ServiceError
from service.job import Event, JobState
from service.queue.queue import Queue

CONTENT_TYPE = "text/event-stream"
ALIVE_S = 15.0
"""Something is said at least so often: proxies cut a line that is silent for long."""

LOOK_S = 1.0
"""How often a waiting job's place in line is looked at."""

_PLACE = re.compile(r"[0-9]{1,15}(-[0-9]{1,15})?")


def place_of(header: str | None, query: str | None) -> str:
    """The id of the last event that a client has seen, `0` before the first. Raises BadRequest."""
    given = header or query or "0"
    if not _PLACE.fullmatch(given):
        raise BadRequest(
            f"{given[:50]!r} is no event's id.", "Send the `id` of the last event that was seen, or none at all."
        )
    return given


class EventStream:
    """The lines of one job's stream, from the event after `after` on.

    A job that only moves up in line is told by another `queued` with the id of the last event: who resumes after it
    gets what is new, and nothing twice. The stream ends after the final event, or when `closing` is set.
    """

    def __init__(self, queue: Queue, job_id: str, after: str, closing: asyncio.Event) -> None:
        self._queue, self._job_id = queue, job_id
        self._place = after
        self._closing = closing
        self._position: int | None = None
        self._waits = True
        self._spoke = time.monotonic()

    async def lines(self) -> AsyncIterator[str]:
        """Each event as its lines; in silence, a comment."""
        yield "retry: 1000\n\n"
        events = self._queue.events(self._job_id, self._place)
        coming = _next(events)
        try:
            while not self._closing.is_set():
                said = ""
                if await _done(coming, LOOK_S):
                    if (event := coming.result()) is None:
                        return
                    said = await self._told(event)
                    coming = _next(events)
                else:
                    said = await self._between()
                if said:
                    self._spoke = time.monotonic()
                    yield said
        except ServiceError:  # swept, or the queue is away: the client asks again, and is told
            return
        finally:
            coming.cancel()

    async def _told(self, event: Event) -> str:
        status = await self._queue.status(self._job_id)
        state = JobState.RUNNING if event.kind == "progress" else JobState(event.kind)
        view = EventView.of(state, (event.tiles_done, event.tiles_total), status)
        self._place, self._position, self._waits = event.id, view.position, state is JobState.QUEUED
        return _lines(event.id, event.kind, view)

    async def _between(self) -> str:
        """What there is to say while nothing happens."""
        if self._waits:
            status = await self._queue.status(self._job_id)
            if status.state is JobState.QUEUED and status.position != self._position:
                self._position = status.position
                return _lines(self._place, JobState.QUEUED, EventView.of(JobState.QUEUED, (0, 0), status))
        return ": still there\n\n" if time.monotonic() - self._spoke >= ALIVE_S else ""


async def _done(coming: "asyncio.Future[Event | None]", within_s: float) -> bool:
    return bool((await asyncio.wait({coming}, timeout=within_s))[0])


def _next(events: AsyncIterator[Event]) -> "asyncio.Future[Event | None]":
    return asyncio.ensure_future(cast(Awaitable[Event | None], anext(events, None)))


def _lines(place: str, kind: str, view: EventView) -> str:
    return f"id: {place}\nevent: {kind}\ndata: {view.json_text()}\n\n"
