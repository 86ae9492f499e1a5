"""A worker's own small listener: /livez, /readyz and /metrics, for the orchestrator and the monitor."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import Unavailable
from service.settings import Settings
from service.telemetry import WORKER_METRICS, WORKER_READY

PATIENCE_S = 5.0
_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
_log = structlog.get_logger(__name__)


@dataclass
class Health:
    """What the worker says of itself."""

    ready: bool = False
    """It is registered and takes jobs."""
    stuck: bool = False
    """One batch takes longer than the watchdog allows."""

    def say(self, *, ready: bool | None = None, stuck: bool | None = None) -> None:
        """Note what has changed."""
        self.ready = self.ready if ready is None else ready
        self.stuck = self.stuck if stuck is None else stuck
        WORKER_READY.set(self.ready and not self.stuck)


@asynccontextmanager
async def listening(settings: Settings, health: Health) -> AsyncIterator[None]:
    """Answer on `worker_port` within the block; with none set, nothing listens. Raises Unavailable if it is taken."""
    if settings.worker_port is None:
        yield
        return

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_answer(head.split(b"\r\n", 1)[0].decode("latin-1"), health))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # one who does not speak HTTP, or has gone
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(connect, settings.admin_host, settings.worker_port)
    except OSError as error:
        raise Unavailable(
            f"The worker cannot listen on {settings.admin_host}:{settings.worker_port}: {error.strerror or error}.",
            "Give each worker a port of its own (OMGSR_WORKER_PORT), or 0 to pick a free one.",
        ) from error
    async with server:
        _log.info("worker listens", worker_port=server.sockets[0].getsockname()[1])
        yield


def _answer(request: str, health: Health) -> bytes:
    method, _, rest = request.partition(" ")
    kind, body = "application/json", b""
    match method, rest.split(" ")[0].split("?")[0]:
        case (("GET" | "HEAD"), "/livez"):
            status, body = (503, _json("stuck")) if health.stuck else (200, _json("alive"))
        case (("GET" | "HEAD"), "/readyz"):
            good = health.ready and not health.stuck
            status, body = (200, _json("ready")) if good else (503, _json("not ready"))
        case (("GET" | "HEAD"), "/metrics"):
            status, kind, body = 200, CONTENT_TYPE_LATEST, generate_latest(WORKER_METRICS)
        case (("GET" | "HEAD"), _):
            status, body = 404, _json("there is /livez, /readyz and /metrics")
        case _:
            status, body = 405, _json("GET only")
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + (b"" if method == "HEAD" else body)


def _json(status: str) -> bytes:
    return json.dumps({"status": status}).encode()
