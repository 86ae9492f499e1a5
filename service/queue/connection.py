"""The server behind the queue: its connections, its scripts, and what to do while it does not answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from service.errors import Unavailable
from service.queue.endings import Endings

BLOCK_MS = 2_000  # well below the client's socket timeout of 5 s
CONNECTIONS = 64
POOL_PATIENCE_S = 20.0
RETRIES = 6  # over 1.3 s on average: a blip, or the embedded server's restart
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
        retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), RETRIES)  # a client made from a URL has none
        told: dict[str, Any] = {"decode_responses": True, "retry": retry}
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=POOL_PATIENCE_S, **told)
        )
        # Reads that block keep a connection each; in a pool of their own they cannot starve the others.
        self._waiters = Redis.from_pool(ConnectionPool.from_url(url, max_connections=10_000, **told))
        self._endings = Endings(lambda stream, after: self._read(stream, after, BLOCK_MS))
        self._scripts: dict[str, Any] = {}

    async def close(self) -> None:
        """Close all connections."""
        self._endings.close()
        await self._redis.aclose()
        await self._waiters.aclose()

    async def _run(self, script: str, *args: str | float) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._redis.register_script(_source(script))
        try:
            return await self._scripts[script](keys=[self._prefix], args=args)
        except RedisError as error:
            raise _unavailable(error) from error

    async def _read(self, stream: str, after: str, block_ms: int | None) -> list[tuple[str, dict[str, str]]]:
        try:
            answer: Any = await self._waiters.xread({self._prefix + stream: after}, block=block_ms)
        except RedisError as error:
            raise _unavailable(error) from error
        return answer[0][1] if answer else []


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


def _unavailable(error: RedisError) -> Unavailable:
    return Unavailable(f"The queue does not answer ({type(error).__name__}).")
