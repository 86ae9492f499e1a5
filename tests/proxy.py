"""A way between a client and a server that a test may cut: real sockets, on another port."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ssl import SSLContext
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """`async with Proxy(url) as proxy: proxy.url`. With `tls`, clients speak TLS as far as here."""

    def __init__(self, server: str, tls: SSLContext | None = None) -> None:
        self._tls = tls
        self._port = urlsplit(server).port
        self._under_way: set[asyncio.Task[None]] = set()
        self._to_lose = 0
        self._room: int | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.lost = 0
        """Answers that the client did not get whole."""
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Break every connection in the middle of whatever it carries."""
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    def lose_answers(self, count: int) -> None:
        """The next answers come as far as here; then their connections break."""
        self._to_lose = count

    def pass_only(self, room: int) -> None:
        """After so many bytes of answers one connection breaks."""
        self._room = room

    @contextmanager
    def held(self) -> Iterator[None]:
        """No answer comes through within the block; those that came meanwhile do so after it."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._under_way.add(task)
        self.connections += 1
        ends = [writer]
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._port)
            ends.append(forth)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass(reader, forth, answers=False))
                ways.create_task(self._pass(back, writer, answers=True))
        except (ExceptionGroup, OSError, asyncio.CancelledError):
            pass
        finally:
            self._under_way.discard(task)
            for end in ends:
                end.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(1 << 16):
            if answers:
                await self._open.wait()
                self._break_perhaps(len(data))
            sink.write(data)
            await sink.drain()
        with suppress(OSError):
            sink.write_eof() if sink.can_write_eof() else sink.close()

    def _break_perhaps(self, size: int) -> None:
        if self._room is not None:
            self._room -= size
        if self._to_lose or (self._room is not None and self._room < 0):
            self._to_lose, self._room = max(0, self._to_lose - 1), None
            self.lost += 1
            raise ConnectionAbortedError
