"""The images of one gRPC stream: files in, results out, each on its own, and never more than a little in memory."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from omgsr.v1 import upscale_pb2 as pb

from service.api.body import SLOWEST
from service.api.grpc_call import Call, Context, discard, end
from service.api.grpc_job import ImageJob, record
from service.api.messages import CHUNK_SENT, CHUNK_TAKEN, progress_of, status_of, too_many
from service.api.results import piece
from service.api.submit import Admission
from service.errors import BadRequest, Cancelled, ServiceError, TooManyRequests, Unavailable, UploadStalled
from service.job import Event, Result
from service.telemetry import REJECTED

IMAGES_AT_ONCE = 8
LONGEST_ID = 255
LINE = 2
"""Answers that wait for the client to read: a slow reader holds us up, and does not fill our memory."""

_log = structlog.get_logger(__name__)


class Upload:
    """An image whose file is on its way."""

    def __init__(self, start: pb.Start) -> None:
        self.id, self.start = start.image_id[:LONGEST_ID], start
        self.data = bytearray()
        self.slot = AsyncExitStack()
        self.has_slot = False
        self.began = time.perf_counter()
        self.timer: asyncio.TimerHandle | None = None

    def whole(self) -> bytes:
        """The file; it is kept here no longer."""
        data = bytes(self.data)
        self.data.clear()
        return data


class Stream:
    """The images of one call: first each is an upload, then, when its file is whole, a job."""

    def __init__(self, admission: Admission, call: Call) -> None:
        self._admission, self._call, self._settings = admission, call, admission.settings
        self._uploads: dict[str, Upload] = {}
        self._jobs: dict[str, ImageJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outgoing: asyncio.Queue[pb.UpscaleResponse | ServiceError | None] = asyncio.Queue(LINE)
        self._delivering = asyncio.Lock()
        self._one_ended = asyncio.Event()
        self._all_read = self._stopping = False

    async def run(self, context: Context) -> None:
        """Answer the requests until the last image has ended. Raises the ServiceError that ends the whole call."""
        self._spawn(self._read(context))
        try:
            while (answer := await self._outgoing.get()) is not None:
                if isinstance(answer, ServiceError):
                    raise answer
                await context.write(answer)
        finally:
            await self._close()

    def stop(self) -> None:
        """The server stops: take no more images, and end the call when those that came have ended."""
        self._stopping = True
        self._spawn(self._finish())

    async def _finish(self) -> None:
        while self._uploads or self._jobs:
            await self._next_end()
        if not self._all_read:
            await self._outgoing.put(_server_stops())

    async def _close(self) -> None:
        """The call is over: nobody waits for what is left of it."""
        await end(self._tasks)
        for upload in list(self._uploads.values()):
            await self._drop(upload)
        await asyncio.gather(*(job.leave() for job in self._jobs.values()), return_exceptions=True)

    async def _read(self, context: Context) -> None:
        """Take every request in, wait for the images at work, then end the answers."""
        last: ServiceError | None = None
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                await self._take(request)
            self._all_read = True
            for upload in list(self._uploads.values()):
                await self._refuse(upload, BadRequest("The stream ended before the image's last chunk."))
            while self._jobs:
                await self._next_end()
        except DecodeError:
            last = BadRequest("What came is no UpscaleRequest.", "Generate the client from upscale.proto.")
            await discard(context)
        except Exception:  # noqa: BLE001  logged, and told to this call alone
            _log.exception("unexpected error")
            last = ServiceError("An unexpected error; it has been logged.")
        await self._outgoing.put(last)

    async def _take(self, request: pb.UpscaleRequest) -> None:
        match request.WhichOneof("message"):
            case "start":
                await self._start(request.start)
            case "chunk" if upload := self._uploads.get(request.chunk.image_id):
                await self._add(upload, request.chunk)
            case "chunk" if job := self._jobs.get(request.chunk.image_id):
                job.give_up(BadRequest("A chunk came after the last one."))
            case "cancel" if upload := self._uploads.get(request.cancel.image_id):
                await self._refuse(upload, Cancelled("The image was cancelled."))
            case "cancel" if job := self._jobs.get(request.cancel.image_id):
                job.give_up(Cancelled("The image was cancelled."))
            case _:
                pass  # more of an image that has failed already: its client cannot know yet

    # Uploads ----------------------------------------------------------------------------------------------------------

    async def _start(self, start: pb.Start) -> None:
        while len(self._jobs) >= IMAGES_AT_ONCE and not self._uploads:
            await self._next_end()
        upload = Upload(start)
        if objection := self._objection(start):
            await self._refuse(upload, objection)
        else:
            self._uploads[upload.id] = upload
            self._watch(upload)

    def _objection(self, start: pb.Start) -> ServiceError | None:
        limit = self._settings.max_upload_bytes
        if self._stopping:
            return _server_stops()
        if len(start.image_id) > LONGEST_ID:
            return BadRequest(f"An image_id has more than {LONGEST_ID} characters.")
        if start.image_id in self._uploads or start.image_id in self._jobs:
            return BadRequest(f"image_id {start.image_id!r} is in use on this stream.")
        if len(self._uploads) + len(self._jobs) >= IMAGES_AT_ONCE:
            return TooManyRequests(
                f"{IMAGES_AT_ONCE} images are under way on this stream, some of them half sent.",
                "Send one file after the other, or wait for results first.",
            )
        if start.total_bytes > limit:
            return too_many(limit)
        return None

    async def _add(self, upload: Upload, chunk: pb.Chunk) -> None:
        limit = self._settings.max_upload_bytes
        if len(chunk.data) > CHUNK_TAKEN:
            await self._refuse(upload, BadRequest(f"A chunk has more than {CHUNK_TAKEN:,} bytes."))
        elif len(upload.data) + len(chunk.data) > limit:
            await self._refuse(upload, too_many(limit))
        elif upload.has_slot or await self._take_slot(upload):
            upload.data += chunk.data
            if chunk.last:
                self._forget(upload)
                self._jobs[upload.id] = job = ImageJob(self._admission, self._call, upload.start, upload.slot)
                self._spawn(self._work(upload, job))

    async def _take_slot(self, upload: Upload) -> bool:
        try:
            await upload.slot.enter_async_context(self._admission.upload_slot())
        except Unavailable as error:
            await self._refuse(upload, error)
            return False
        upload.has_slot = self._uploads.get(upload.id) is upload
        if not upload.has_slot:  # it was too slow, meanwhile
            await upload.slot.aclose()
        return upload.has_slot

    def _watch(self, upload: Upload) -> None:
        """See to it that the file comes along; one that does not would keep its slot from others."""
        due = upload.began + self._settings.slow_upload_s + len(upload.data) / SLOWEST
        if (left := due - time.perf_counter()) > 0:
            upload.timer = asyncio.get_running_loop().call_later(left, self._watch, upload)
            return
        self._forget(upload)
        slow = UploadStalled(f"The file brings less than {SLOWEST // 1024} KiB a second.")
        self._spawn(self._refuse(upload, slow))

    def _forget(self, upload: Upload) -> None:
        if self._uploads.get(upload.id) is upload:
            del self._uploads[upload.id]
        if upload.timer:
            upload.timer.cancel()
        self._one_ended.set()

    async def _drop(self, upload: Upload) -> None:
        self._forget(upload)
        upload.data.clear()
        await upload.slot.aclose()

    async def _refuse(self, upload: Upload, error: ServiceError) -> None:
        """Tell why there will be no job; the stream and its other images go on."""
        await self._drop(upload)
        if not isinstance(error, Cancelled):
            REJECTED.labels(error.slug).inc()
        await self._fail(upload, "", error)

    # Jobs -------------------------------------------------------------------------------------------------------------

    async def _work(self, upload: Upload, job: ImageJob) -> None:
        try:
            await self._upscale(upload, job)
        except ServiceError as error:
            await self._fail(upload, job.model, error)
        except Exception:  # noqa: BLE001  logged, and told to this image alone
            _log.exception("unexpected error", image=upload.id)
            await self._fail(upload, job.model, ServiceError("An unexpected error; it has been logged."))
        else:
            record(upload.began, job.model, "OK")
        del self._jobs[upload.id]  # but not when the task is cancelled: then `_close` sees to the job
        self._one_ended.set()

    async def _upscale(self, upload: Upload, job: ImageJob) -> None:
        async def tell(event: Event) -> None:
            await self._say(pb.UpscaleResponse(progress=progress_of(upload.id, event)))

        submitted = await job.submit(upload.whole())
        accepted = pb.Accepted(
            image_id=upload.id, job_id=submitted.job.id, position=submitted.position, joined=submitted.joined
        )
        await self._say(pb.UpscaleResponse(accepted=accepted))
        found = await job.follow(submitted, tell)
        async with self._delivering:  # one result after the other: the first one is there sooner, and less is in memory
            await self._deliver(upload.id, found)

    async def _deliver(self, image_id: str, found: Result) -> None:
        about = pb.ResultStart(
            image_id=image_id,
            mime_type=found.mime_type,
            width=found.width,
            height=found.height,
            total_bytes=found.bytes,
        )
        await self._say(pb.UpscaleResponse(result_start=about))
        for at in range(0, found.bytes, CHUNK_SENT):
            to = min(at + CHUNK_SENT, found.bytes)
            data = await piece(self._admission.blobs, found, at, to)
            chunk = pb.Chunk(image_id=image_id, data=data, last=to == found.bytes)
            await self._say(pb.UpscaleResponse(chunk=chunk))

    async def _fail(self, upload: Upload, model: str, error: ServiceError) -> None:
        problem = error.problem()
        record(upload.began, model, problem.grpc_code)
        await self._say(pb.UpscaleResponse(failed=pb.Failed(image_id=upload.id, status=status_of(problem))))

    # ------------------------------------------------------------------------------------------------------------------

    async def _say(self, answer: pb.UpscaleResponse) -> None:
        await self._outgoing.put(answer)

    async def _next_end(self) -> None:
        """Wait until an upload or a job has ended."""
        self._one_ended.clear()
        await self._one_ended.wait()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _server_stops() -> Unavailable:
    return Unavailable("The server is stopping.", "Send it to another one, or again in a moment.", retry_after_s=1)
