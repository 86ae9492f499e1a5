"""The gRPC server: upscaling, health and reflection on one port, with TLS where it is set, and its own drain."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from service.api.auth import Keys
from service.api.grpc_call import end
from service.api.messages import LARGEST
from service.api.servicer import SERVICE, Servicer
from service.api.submit import Admission
from service.errors import Unavailable
from service.settings import Settings

STREAMS_AT_ONCE = 64
"""On one connection; further calls wait at the client."""

LOOK_S = 1.0
"""How often it is looked whether there is a worker."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # or a second server on the port would silently share its calls
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.max_concurrent_streams", STREAMS_AT_ONCE),
    # Clients may see whether we are still there, once a second, also while nothing is at work for them.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    # And we see within 80 s that a client is gone which could not say so.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class GrpcServer:
    """`async with GrpcServer(…) as server: server.port`. It is healthy while a worker lives, until it is `draining`."""

    def __init__(self, admission: Admission, keys: Keys, settings: Settings, draining: asyncio.Event) -> None:
        self._queue, self._drain_s, self._draining = admission.queue, settings.drain_s, draining
        self._health = health.aio.HealthServicer()
        self._servicer = Servicer(admission, keys)
        self._drained: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self._servicer.handlers,))
        add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address, credentials = f"{host}:{settings.grpc_port}", _credentials(settings)
        if credentials:
            self.port = self._server.add_secure_port(address, credentials)
        else:
            self.port = self._server.add_insecure_port(address)

    async def __aenter__(self) -> Self:
        await self._look()
        await self._server.start()
        self._looking = asyncio.create_task(self._tell_health())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()
        await end([self._looking])

    async def drain(self) -> None:
        """Take no new calls, and wait for the images at work; once more only waits for the same."""
        self._drained = self._drained or asyncio.create_task(self._drain())
        await asyncio.shield(self._drained)

    async def _drain(self) -> None:
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(self._drain_s))
        idle = asyncio.create_task(self._servicer.stop())
        await asyncio.wait({stopping, idle}, return_when=asyncio.FIRST_COMPLETED)
        await end([idle])
        await self._server.stop(None)  # who is left only watches the health
        await stopping

    async def _tell_health(self) -> None:
        while not self._draining.is_set():
            await self._look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), LOOK_S)
        await self._health.enter_graceful_shutdown()

    async def _look(self) -> None:
        try:
            workers = (await self._queue.fleet()).workers
        except Unavailable:
            workers = 0
        told = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._health.set(name, told.SERVING if workers else told.NOT_SERVING)


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    authority = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )
