"""gRPC: several images on one stream; each succeeds or fails on its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1 import upscale_pb2_grpc

from service.api.messages import options_of, progress_of, status_of, too_many
from service.api.submit import Admission, Submitted
from service.errors import BadRequest, Cancelled, RequestFailed, ServiceError, Unavailable
from service.job import Result
from service.settings import Settings
from service.telemetry import REQUEST_DURATION, rejections_counted

CHUNK = 256 * 1024
LARGEST_MESSAGE = 2**20 + 64 * 1024
IMAGES_AT_ONCE = 8
STREAMS_AT_ONCE = 64
"""On one connection; further calls wait at the client."""
SERVICE = pb.DESCRIPTOR.services_by_name["UpscaleService"].full_name
_log = structlog.get_logger(__name__)


class _Image:
    """One image on a stream: its file as it arrives, then its job."""

    def __init__(self, start: pb.Start) -> None:
        self.id = start.image_id
        self.start = start
        self.data = bytearray()
        self.slot = AsyncExitStack()
        self.has_slot = False
        self.whole = False
        self.model = ""
        self.task: asyncio.Task[None] | None = None
        self.submitting: asyncio.Task[Submitted] | None = None
        self.job_id = ""
        self.unwanted: ServiceError | None = None
        self.began = time.perf_counter()


class Stream:
    """The images of one call. What goes out waits in a short line, so a slow reader holds us up, not our memory."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.outgoing: asyncio.Queue[pb.UpscaleResponse | None] = asyncio.Queue(maxsize=4)
        self.images: dict[str, _Image] = {}
        self.abandoned = False

    async def read(self, requests: AsyncIterator[pb.UpscaleRequest]) -> None:
        """Take every request in, wait for the images at work, then end the answers."""
        async for request in requests:
            await self._take(request)
        for image_id in [i for i, image in self.images.items() if not image.whole]:
            await self._fail(self.images[image_id], BadRequest("The stream ended before the image's last chunk."))
        await asyncio.gather(*(image.task for image in self.images.values() if image.task))
        await self.outgoing.put(None)

    async def abandon(self) -> None:
        """The client is gone: end what is at work for it, and cancel its jobs, also those just being submitted."""
        self.abandoned = True
        images = list(self.images.values())
        tasks = [image.task for image in images if image.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*map(self._forget, images), return_exceptions=True)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _forget(self, image: _Image) -> None:
        async with image.slot:
            if image.submitting:
                await self._cancel_job((await image.submitting).job.id)

    async def _cancel_job(self, job_id: str) -> None:
        with suppress(ServiceError):  # ended long ago, or the queue is away: nothing is left to cancel here
            await self.admission.queue.cancel(job_id)

    async def _take(self, request: pb.UpscaleRequest) -> None:
        match request.WhichOneof("message"):
            case "start":
                await self._start(request.start)
            case "chunk" if image := self.images.get(request.chunk.image_id):
                await self._add(image, request.chunk)
            case "cancel" if image := self.images.get(request.cancel.image_id):
                await self._cancel(image)
            case _:
                pass  # more of an image that has failed already: its client cannot know yet

    async def _start(self, start: pb.Start) -> None:
        image, limit = _Image(start), self.admission.settings.max_upload_bytes
        if start.image_id in self.images:
            refusal: ServiceError = BadRequest(f"image_id {start.image_id!r} is in use on this stream.")
        elif len(self.images) >= IMAGES_AT_ONCE:
            refusal = BadRequest(f"More than {IMAGES_AT_ONCE} images at once on one stream.", "Wait for results first.")
        elif start.total_bytes > limit:
            refusal = too_many(limit)
        else:
            self.images[start.image_id] = image
            return
        await self._fail(image, refusal)

    async def _add(self, image: _Image, chunk: pb.Chunk) -> None:
        limit = self.admission.settings.max_upload_bytes
        if image.whole:
            await self._drop(image, BadRequest("A chunk came after the last one."))
        elif len(image.data) + len(chunk.data) > limit:
            await self._fail(image, too_many(limit))
        elif image.has_slot or await self._take_slot(image):
            image.data += chunk.data
            if chunk.last:
                image.whole = True
                image.task = asyncio.create_task(self._work(image))

    async def _take_slot(self, image: _Image) -> bool:
        try:
            with rejections_counted():
                await image.slot.enter_async_context(self.admission.upload_slot())
            image.has_slot = True
        except Unavailable as error:
            await self._fail(image, error)
        return image.has_slot

    async def _cancel(self, image: _Image) -> None:
        if image.whole:
            await self._drop(image, Cancelled("The image was cancelled."))
        else:
            await self._fail(image, Cancelled("The image was cancelled."))

    async def _drop(self, image: _Image, why: ServiceError) -> None:
        """Give up an image that is at work: its task sees the end and tells why."""
        image.unwanted = why
        if image.job_id:  # else its task does it, once there is a job
            await self._cancel_job(image.job_id)

    async def _work(self, image: _Image) -> None:
        try:
            await self._upscale(image)
        except ServiceError as error:
            await self._fail(image, error)
        except Exception:  # noqa: BLE001  logged, and told to this image alone
            _log.exception("unexpected error", image=image.id)
            await self._fail(image, ServiceError("An unexpected error; it has been logged."))

    async def _upscale(self, image: _Image) -> None:
        # Shielded: a client that leaves now must not leave a job that nobody knows of.
        image.submitting = asyncio.create_task(self._submit(image))
        submitted = await asyncio.shield(image.submitting)
        image.job_id, image.model = submitted.job.id, submitted.job.options.model
        if image.unwanted:
            await self._cancel_job(image.job_id)
        await self._say(accepted=pb.Accepted(image_id=image.id, job_id=image.job_id, position=submitted.position))
        async for event in self.admission.queue.events(image.job_id):
            if not event.final:
                await self._say(progress=progress_of(image.id, event))
        status = await asyncio.shield(submitted.finished)
        if image.unwanted:
            raise image.unwanted
        if status.error is not None:
            raise RequestFailed(status.error)
        if status.result is None:
            raise Cancelled("The image was cancelled.")
        await self._deliver(image, status.result)

    async def _submit(self, image: _Image) -> Submitted:
        async with image.slot:
            with rejections_counted():
                if image.start.total_bytes not in (0, len(image.data)):
                    raise BadRequest(f"total_bytes says {image.start.total_bytes}, {len(image.data)} bytes came.")
                data = bytes(image.data)
                image.data.clear()
                return await self.admission.submit(data, options_of(image.start))

    async def _deliver(self, image: _Image, found: Result) -> None:
        data = await self.admission.fetch(found.key)
        await self._say(
            result_start=pb.ResultStart(
                image_id=image.id,
                mime_type=found.mime_type,
                width=found.width,
                height=found.height,
                total_bytes=len(data),
            )
        )
        for at in range(0, len(data), CHUNK):
            last = at + CHUNK >= len(data)
            await self._say(chunk=pb.Chunk(image_id=image.id, data=data[at : at + CHUNK], last=last))
        self._done(image, "OK")

    async def _fail(self, image: _Image, error: ServiceError) -> None:
        """Tell why; the stream and its other images go on."""
        problem = error.problem()
        self._done(image, problem.grpc_code)
        image.data.clear()
        await image.slot.aclose()
        await self._say(failed=pb.Failed(image_id=image.id, status=status_of(problem)))

    def _done(self, image: _Image, code: str) -> None:
        if self.images.get(image.id) is image:
            del self.images[image.id]
        REQUEST_DURATION.labels("grpc", image.model, code).observe(time.perf_counter() - image.began)

    async def _say(
        self,
        *,
        accepted: pb.Accepted | None = None,
        progress: pb.Progress | None = None,
        result_start: pb.ResultStart | None = None,
        chunk: pb.Chunk | None = None,
        failed: pb.Failed | None = None,
    ) -> None:
        if self.abandoned:  # a cancellation can get lost in a library; here nobody would free the task again
            return
        await self.outgoing.put(
            pb.UpscaleResponse(
                accepted=accepted, progress=progress, result_start=result_start, chunk=chunk, failed=failed
            )
        )


class Servicer(upscale_pb2_grpc.UpscaleServiceServicer):
    """The service of the contract."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def Upscale(  # noqa: N802  the contract's name
        self,
        requests: AsyncIterator[pb.UpscaleRequest],
        context: grpc.aio.ServicerContext[pb.UpscaleRequest, pb.UpscaleResponse],
    ) -> None:
        """Answer each image as it comes along.

        No generator: one that is left at a `yield` ends at some later time, as garbage.
        """
        stream = Stream(self._admission)
        reader = asyncio.create_task(stream.read(requests))
        try:
            while (response := await stream.outgoing.get()) is not None:
                await context.write(response)
        finally:
            reader.cancel()
            await stream.abandon()
            await asyncio.gather(reader, return_exceptions=True)


class GrpcServer:
    """`async with GrpcServer(…) as server: server.port`: upscaling, health and reflection."""

    def __init__(self, admission: Admission, settings: Settings) -> None:
        self._drain_s = settings.drain_s
        self._health = health.aio.HealthServicer()
        # Without so_reuseport off, a second server on the port would silently share its calls.
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            ("grpc.max_concurrent_streams", STREAMS_AT_ONCE),
        ]
        self._server = grpc.aio.server(options=options)
        upscale_pb2_grpc.add_UpscaleServiceServicer_to_server(  # type: ignore[no-untyped-call]
            Servicer(admission), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.port = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")

    async def __aenter__(self) -> Self:
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()

    async def drain(self) -> None:
        """Take no new streams, and wait for those at work; once more does no harm."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._drain_s)
