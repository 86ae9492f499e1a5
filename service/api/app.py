"""The API process: REST and gRPC in one event loop. It never touches torch."""

import asyncio
import gc
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.api import docs, health, jobs, problems, rest, webpage
from service.api.admin import admin_listener
from service.api.auth import Keys
from service.api.envelope import Envelope
from service.api.grpc_server import GrpcServer
from service.api.ports import check_tls, listen
from service.api.submit import Admission
from service.queue.blobs import BlobStore
from service.queue.queue import Queue
from service.settings import Settings
from service.telemetry import configure_logging
from service.tracing import configure_tracing
from service.version import release

KEEP_ALIVE_S = 75
"""Longer than balancers keep an idle connection, so that it is never we who close one that they are about to use."""
NOTICE_LOOK_S = 0.05

_log = structlog.get_logger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The REST application; its lifespan holds the queue, the blob store, the gRPC server and the admin listener.

    Raises KeysUnreadable.
    """
    keys = Keys.of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Queue.of(settings) as queue:
            admission = Admission(settings, queue, BlobStore(settings.blobs))
            app.state.admission = admission
            try:
                async with (
                    admin_listener(admission, settings) as admin_port,
                    GrpcServer(admission, keys, settings, app.state.draining) as grpc_server,
                ):
                    app.state.grpc, app.state.admin_port = grpc_server, admin_port
                    yield
            finally:
                admission.close()

    app = FastAPI(
        title="OMGSR Serve",
        version=release(),
        summary="One-step diffusion super-resolution: small damaged photos in, sharp large ones out.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.keys = keys
    app.state.draining, app.state.closing = asyncio.Event(), asyncio.Event()
    for router in (webpage.router, rest.router, jobs.router, health.router, docs.router):
        app.include_router(router)
    problems.install(app)
    _allow_origins(app, settings.cors_origins)
    app.add_middleware(Envelope)
    return app


def _allow_origins(app: FastAPI, origins: list[str]) -> None:
    if not origins:
        return
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=[
            *("Authorization", "X-API-Key", "Idempotency-Key", "Prefer", "Last-Event-ID", "X-Request-Id"),
            "Content-Type",
        ],
        expose_headers=[
            *("Location", "Retry-After", "X-Job-Id", "X-Request-Id", "Server-Timing", "Content-Disposition"),
            rest.JOINED,
        ],
    )


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests at hand within `drain_s`.

    Raises PortTaken, TlsUnusable, KeysUnreadable.
    """
    configure_logging(settings.log_level)
    configure_tracing("api")
    check_tls(settings)
    sock = listen(settings.host, settings.port)
    listen(settings.host, settings.grpc_port).close()  # who holds it is said here; gRPC would only say that it failed
    if settings.admin_port:
        listen(settings.admin_host, settings.admin_port).close()  # likewise
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    asyncio.run(_Server(config, app, settings.notice_s, sock.getsockname()[1]).serve(sockets=[sock]))


class _Server(uvicorn.Server):
    """Says where it listens once it does, and ends a stop that was asked for as a success."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, notice_s: float, port: int) -> None:
        super().__init__(config)
        self._app, self._notice_s, self._port = app, notice_s, port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what was loaded stays: looking through it again and again would hold up every request
        state = self._app.state
        _log.info("listening", rest_port=self._port, grpc_port=state.grpc.port, admin_port=state.admin_port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give notice, then let both transports drain at once, each within `drain_s`."""
        state = self._app.state
        state.draining.set()
        _log.info("draining", notice_s=self._notice_s)
        await self._wait_noticed()
        state.closing.set()
        drained = asyncio.create_task(state.grpc.drain())
        await super().shutdown(sockets)
        await drained

    async def _wait_noticed(self) -> None:
        """Go on for a while, unready: balancers learn of it before the first connection is refused."""
        until = time.monotonic() + self._notice_s
        while time.monotonic() < until and not self.force_exit:  # noqa: ASYNC110  a signal wakes no event loop
            await asyncio.sleep(NOTICE_LOOK_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's signature
        """Drain on the first signal, leave at once on a second Ctrl-C. Uvicorn's own would die of the signal after."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
