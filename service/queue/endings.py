"""Who waits for the end of which job: one reader tells them all, however many jobs are under way."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from service.errors import Unavailable

PAUSE_S = 0.2

Read = Callable[[str, str], Awaitable[list[tuple[str, dict[str, str]]]]]
"""The entries of a stream after one of them; it waits a while for the first."""


class Endings:
    """Follows a stream of jobs that have ended, from the first time that somebody watches."""

    def __init__(self, read: Read, stream: str) -> None:
        self._read = read
        self._stream = stream
        self._watched: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._following: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """What is set when the job ends within the block; it may also have ended before."""
        if self._following is None:
            self._following = asyncio.create_task(self._follow())
        ended = asyncio.Event()
        self._watched[job_id].add(ended)
        try:
            yield ended
        finally:
            self._watched[job_id].discard(ended)
            if not self._watched[job_id]:
                del self._watched[job_id]

    def close(self) -> None:
        """Follow no more."""
        if self._following is not None:
            self._following.cancel()

    async def _follow(self) -> None:
        after = "0"  # not from now on: a job that ends before the first read is on its way must not be missed
        while True:
            try:
                for entry, fields in await self._read(self._stream, after):
                    after = entry
                    for ended in self._watched.get(fields["id"], ()):
                        ended.set()
            except Unavailable:
                after = "0"  # a server that comes back may have lost its last words, and counts on from before
                await asyncio.sleep(PAUSE_S)
