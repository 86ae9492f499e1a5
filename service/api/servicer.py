"""gRPC: several images on one stream, each with its own end; and one small image in one message."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import structlog
from omgsr.v1 import upscale_pb2 as pb

from service.api.auth import Keys
from service.api.grpc_call import REQUEST_ID, Call, Context, discard, refuse, request_id_of
from service.api.grpc_job import record
from service.api.grpc_stream import Stream
from service.api.grpc_unary import SmallImage
from service.api.submit import Admission, Submitted
from service.errors import ServiceError, Unauthenticated

SERVICE = pb.DESCRIPTOR.services_by_name["UpscaleService"].full_name
SETTLE_S = 0.1
"""A call that was let in before a stop has begun by then."""

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class Servicer:
    """The service of the contract."""

    def __init__(self, admission: Admission, keys: Keys) -> None:
        self._admission, self._keys = admission, keys
        self._streams: set[Stream] = set()
        self._calls = 0
        self._stopping = False
        self._idle = asyncio.Event()

    @property
    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server calls."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Upscale": grpc.stream_stream_rpc_method_handler(
                    self.upscale, pb.UpscaleRequest.FromString, pb.UpscaleResponse.SerializeToString
                ),
                # Read as a stream of one message, which looks the same on the wire: then nothing of it is taken in
                # before it is known who calls, and that there is memory for it.
                "UpscaleImage": grpc.stream_unary_rpc_method_handler(
                    self.upscale_image, pb.UpscaleImageRequest.FromString, pb.UpscaleImageResponse.SerializeToString
                ),
            },
        )

    # Neither is a generator, nor reads its requests from one: what is left at a `yield` ends at some later time, as
    # garbage, and one that met a broken message has come to its end.

    async def upscale(self, _: object, context: Context) -> None:
        """Answer each image as it comes along."""

        async def handle(call: Call) -> None:
            await context.send_initial_metadata(((REQUEST_ID, call.request_id),))
            stream = Stream(self._admission, call)
            self._streams.add(stream)
            if self._stopping:
                stream.stop()
            try:
                await stream.run(context)
            finally:
                self._streams.discard(stream)

        await self._serve(context, handle)

    async def upscale_image(self, _: object, context: Context) -> pb.UpscaleImageResponse:
        """Answer the one image."""

        async def handle(call: Call) -> pb.UpscaleImageResponse:
            async def announce(submitted: Submitted) -> None:
                await context.send_initial_metadata(((REQUEST_ID, call.request_id), ("x-job-id", submitted.job.id)))

            return await SmallImage(self._admission, call).upscale(context, announce)

        return await self._serve(context, handle)

    async def stop(self) -> None:
        """Take no more images, and return when the calls at work have ended."""
        self._stopping = True
        for stream in self._streams:
            stream.stop()
        await asyncio.sleep(SETTLE_S)
        while self._calls:
            self._idle.clear()
            await self._idle.wait()

    async def _serve(self, context: Context, handle: Callable[[Call], Awaitable[T]]) -> T:
        self._calls += 1
        context.add_done_callback(lambda _: self._left())  # type: ignore[arg-type]  # the stubs have a class there
        request_id, began = request_id_of(context), time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                return await handle(Call.of(context, self._keys, request_id))
            except ServiceError as error:
                refusal = error
            except grpc.aio.BaseError:  # the client is gone
                raise
            except Exception:  # noqa: BLE001  logged, and told to this call alone
                _log.exception("unexpected error")
                refusal = ServiceError("An unexpected error; it has been logged.")
            if isinstance(refusal, Unauthenticated):
                record(began, "", refusal.grpc_code)
                await discard(context)
            return await refuse(context, refusal, request_id)

    def _left(self) -> None:
        """The last word of a call is out."""
        self._calls -= 1
        self._idle.set()
