"""The server behind the queue: its connections, its scripts, and what to do while it does not answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from redis.exceptions import MovedError, RedisClusterException, RedisError

from service.errors import Unavailable
from service.queue.endings import Endings
from service.queue.server import clients_of

BLOCK_MS = 2_000  # well below the client's socket timeout of 5 s
OUTAGE_S = 60.0
OUTAGE_PAUSE_S = 0.2
LIBRARY = ("lib", "line", "accept", "settle")
"""What every script begins with."""

T = TypeVar("T")


@cache
def _source(script: str) -> str:
    folder = files("service.queue")
    return "".join((folder / f"{name}.lua").read_text("utf-8") for name in (*LIBRARY, script))


class Connection:
    """What all sides of the queue share: the server, and the terms that jobs are held on."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "omgsr",
        lease_s: float = 15.0,
        max_attempts: int = 3,
        result_ttl_s: float = 3600.0,
        dead_ttl_s: float = 7 * 86_400.0,
        attend_s: float = 30.0,
        variants_known_s: float = 600.0,
    ) -> None:
        self.lease_s = lease_s
        self.max_attempts = max_attempts
        self.result_ttl_s = result_ttl_s
        self.dead_ttl_s = dead_ttl_s
        self.attend_s = attend_s
        self.variants_known_s = variants_known_s
        self._prefix = f"{{{namespace}}}:"
        self._clients = clients_of(url)
        self._endings = Endings(self._news, "ended")
        self._called_off = Endings(self._news, "called_off")
        self._scripts: dict[str, Any] = {}

    async def close(self) -> None:
        """Close all connections."""
        self._endings.close()
        self._called_off.close()
        await self._clients.close()

    async def _run(self, script: str, *args: str | float) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._clients.calls.register_script(_source(script))
        try:
            return await self._scripts[script](keys=[self._prefix], args=args)
        except (RedisError, RedisClusterException) as error:
            raise _unavailable(error) from error

    async def _read(self, stream: str, after: str, block_ms: int | None) -> list[tuple[str, dict[str, str]]]:
        try:
            answer: Any = await self._clients.waiters.xread({self._prefix + stream: after}, block=block_ms)
        except (RedisError, RedisClusterException) as error:
            raise _unavailable(error) from error
        return answer[0][1] if answer else []

    async def _news(self, stream: str, after: str) -> list[tuple[str, dict[str, str]]]:
        return await self._read(stream, after, BLOCK_MS)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns; while the server does not answer it is made again, for up to OUTAGE_S."""
    give_up = time.monotonic() + OUTAGE_S
    while True:
        try:
            return await call()
        except Unavailable:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(OUTAGE_PAUSE_S)


def _unavailable(error: RedisError | RedisClusterException) -> Unavailable:
    if isinstance(error, MovedError):
        return Unavailable(
            "The queue's server is a node of a cluster, and another node has the queue.",
            "Begin REDIS_URL with redis+cluster:// (rediss+cluster:// for TLS).",
        )
    return Unavailable(f"The queue does not answer ({type(error).__name__}).")
