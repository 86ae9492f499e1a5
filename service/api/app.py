"""The API process: REST and gRPC in one event loop. It never touches torch."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from service.api import health, problems, rest
from service.api.envelope import Envelope
from service.api.ports import listen
from service.api.servicer import GrpcServer
from service.api.submit import Admission
from service.queue.blobs import BlobStore
from service.queue.queue import Queue
from service.settings import Settings
from service.telemetry import configure_logging

_log = structlog.get_logger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The REST application; its lifespan holds the queue, the blob store and the gRPC server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Queue.of(settings) as queue:
            admission = Admission(settings, queue, BlobStore(settings.blobs))
            app.state.admission = admission
            try:
                async with GrpcServer(admission, settings) as grpc_server:
                    app.state.grpc = grpc_server
                    yield
            finally:
                admission.close()

    app = FastAPI(
        title="OMGSR Serve",
        version="1",
        summary="One-step diffusion super-resolution: small damaged photos in, sharp large ones out.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.include_router(rest.router)
    app.include_router(health.router)
    problems.install(app)
    app.add_middleware(Envelope)
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests at hand within `drain_s`. Raises PortTaken."""
    configure_logging(settings.log_level)
    sock = listen(settings.host, settings.port)
    listen(settings.host, settings.grpc_port).close()  # who holds it is said here; gRPC would only say that it failed
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    asyncio.run(_Server(config, app, sock.getsockname()[1]).serve(sockets=[sock]))


class _Server(uvicorn.Server):
    """Says where it listens once it does, and ends a stop that was asked for as a success."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, port: int) -> None:
        super().__init__(config)
        self._app, self._port = app, port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        _log.info("listening", rest_port=self._port, grpc_port=self._app.state.grpc.port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Both transports drain at once, each within `drain_s`."""
        drained = asyncio.create_task(self._app.state.grpc.drain())
        await super().shutdown(sockets)
        await drained

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's signature
        """Drain on the first signal, leave at once on a second Ctrl-C. Uvicorn's own would die of the signal after."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
