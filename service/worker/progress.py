"""Tiles done, from the device thread to the queue."""

import asyncio
from collections.abc import Awaitable, Callable

Send = Callable[[int], Awaitable[object]]


class Progress:
    """Sends the newest count. While one is on its way later ones replace each other: a slow queue delays no one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._newest = 0
        self._sending: asyncio.Task[None] | None = None

    def tell(self, done: int) -> None:
        """Note a count, from any thread."""
        self._loop.call_soon_threadsafe(self._note, done)

    def _note(self, done: int) -> None:
        self._newest = done
        if self._sending is None or self._sending.done():
            self._sending = self._loop.create_task(self._send_newest())

    async def _send_newest(self) -> None:
        sent = -1
        while sent != self._newest:
            sent = self._newest
            await self._send(sent)
