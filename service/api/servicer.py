"""gRPC: several images on one stream; each succeeds or fails on its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1 import upscale_pb2_grpc
from pydantic import ValidationError

from service.api.submit import Admission, bad_option
from service.errors import BadRequest, Cancelled, RequestFailed, ServiceError, TooManyBytes
from service.job import Event, JobState, Problem, Result, UpscaleOptions
from service.settings import Settings
from service.telemetry import REQUEST_DURATION, rejections_counted

CHUNK = 256 * 1024
LARGEST_MESSAGE = 2**20 + 64 * 1024
IMAGES_AT_ONCE = 8
SERVICE = pb.DESCRIPTOR.services_by_name["UpscaleService"].full_name
_log = structlog.get_logger(__name__)


class _Image:
    """One image on a stream: its file as it arrives, then its job."""

    def __init__(self, start: pb.Start) -> None:
        self.id = start.image_id
        self.start = start
        self.data = bytearray()
        self.whole = False
        self.model = ""
        self.task: asyncio.Task[None] | None = None
        self.job_id = ""
        self.began = time.perf_counter()


class _Stream:
    """The images of one call. What goes out waits in a short line, so a slow reader holds us up, not our memory."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.outgoing: asyncio.Queue[pb.UpscaleResponse | None] = asyncio.Queue(maxsize=4)
        self.images: dict[str, _Image] = {}

    async def read(self, requests: AsyncIterator[pb.UpscaleRequest]) -> None:
        """Take every request in, wait for the images at work, then end the answers."""
        async for request in requests:
            await self._take(request)
        for image_id in [i for i, image in self.images.items() if not image.whole]:
            await self._fail(self.images[image_id], BadRequest("The stream ended before the image's last chunk."))
        await asyncio.gather(*(image.task for image in self.images.values() if image.task))
        await self.outgoing.put(None)

    async def abandon(self) -> None:
        """The client is gone: cancel what is at work for it."""
        for image in self.images.values():
            if image.task:
                image.task.cancel()
            if image.job_id:
                await self._cancel_job(image.job_id)

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
            refusal = _too_many(limit)
        else:
            self.images[start.image_id] = image
            return
        await self._fail(image, refusal)

    async def _add(self, image: _Image, chunk: pb.Chunk) -> None:
        limit = self.admission.settings.max_upload_bytes
        if image.whole:
            await self._fail(image, BadRequest("A chunk came after the last one."))
        elif len(image.data) + len(chunk.data) > limit:
            await self._fail(image, _too_many(limit))
        else:
            image.data += chunk.data
            if chunk.last:
                image.whole = True
                image.task = asyncio.create_task(self._work(image))

    async def _cancel(self, image: _Image) -> None:
        if image.job_id:  # its task sees the end and tells
            await self._cancel_job(image.job_id)
        elif image.task is None:
            await self._fail(image, Cancelled("The image was cancelled."))

    async def _work(self, image: _Image) -> None:
        try:
            await self._upscale(image)
        except ServiceError as error:
            await self._fail(image, error)
        except Exception:  # noqa: BLE001  logged, and told to this image alone
            _log.exception("unexpected error", image=image.id)
            await self._fail(image, ServiceError("An unexpected error; it has been logged."))

    async def _upscale(self, image: _Image) -> None:
        with rejections_counted():
            if image.start.total_bytes not in (0, len(image.data)):
                raise BadRequest(f"total_bytes says {image.start.total_bytes}, {len(image.data)} bytes came.")
            submitted = await self.admission.submit(bytes(image.data), _options(image.start))
        image.data.clear()
        image.job_id, image.model = submitted.job.id, submitted.job.options.model
        await self._say(accepted=pb.Accepted(image_id=image.id, job_id=image.job_id, position=submitted.position))
        async for event in self.admission.queue.events(image.job_id):
            if not event.final:
                await self._say(progress=_progress(image, event))
        status = await asyncio.shield(submitted.finished)
        if status.error is not None:
            raise RequestFailed(status.error)
        if status.result is None:
            raise Cancelled("The image was cancelled.")
        await self._deliver(image, status.result)

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
        await self._say(failed=pb.Failed(image_id=image.id, status=_status(problem)))

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
        _: grpc.aio.ServicerContext[pb.UpscaleRequest, pb.UpscaleResponse],
    ) -> AsyncIterator[pb.UpscaleResponse]:
        """Answer each image as it comes along."""
        stream = _Stream(self._admission)
        reader = asyncio.create_task(stream.read(requests))
        try:
            while (response := await stream.outgoing.get()) is not None:
                yield response
        finally:
            reader.cancel()
            await stream.abandon()


class GrpcServer:
    """`async with GrpcServer(…) as server: server.port`: upscaling, health and reflection."""

    def __init__(self, admission: Admission, settings: Settings) -> None:
        self._drain_s = settings.drain_s
        self._health = health.aio.HealthServicer()
        # Without so_reuseport off, a second server on the port would silently share its calls.
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", LARGEST_MESSAGE)]
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


def _options(start: pb.Start) -> UpscaleOptions:
    """Unset fields take the defaults; what is set is judged as REST judges it."""
    texts = {name: getattr(start, name) for name in ("model", "color_fix", "format")}
    numbers = {name: getattr(start, name) for name in ("scale", "strength") if start.HasField(name)}
    whole = {name: getattr(start, name) for name in ("quality", "priority")}
    given = {name: value for name, value in (texts | whole).items() if value}
    try:
        return UpscaleOptions.model_validate(given | numbers)
    except ValidationError as error:
        raise bad_option(error) from error


def _progress(image: _Image, event: Event) -> pb.Progress:
    state = JobState.QUEUED if event.kind == JobState.QUEUED else JobState.RUNNING
    return pb.Progress(image_id=image.id, state=state, tiles_done=event.tiles_done, tiles_total=event.tiles_total)


def _status(problem: Problem) -> Status:
    info = ErrorInfo(
        reason=problem.type.rpartition(":")[2].upper().replace("-", "_"),
        domain="omgsr.v1",
        metadata={"title": problem.title, "advice": problem.advice},
    )
    detail = AnyMessage()
    detail.Pack(info)
    code = grpc.StatusCode[problem.grpc_code].value[0]
    return Status(code=code, message=f"{problem.detail} {problem.advice}", details=[detail])


def _too_many(limit: int) -> TooManyBytes:
    return TooManyBytes(f"The file has more than the {limit:,} bytes that this server takes.")
