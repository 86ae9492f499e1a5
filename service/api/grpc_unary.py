"""One small image in one message, and its result in another."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from google.protobuf.message import DecodeError
from omgsr.v1 import upscale_pb2 as pb

from service.api.body import SLOWEST
from service.api.grpc_call import Call, Context, end
from service.api.grpc_job import ImageJob, record
from service.api.messages import LARGEST
from service.api.results import piece
from service.api.submit import Admission, Submitted
from service.errors import BadRequest, ResultTooLarge, ServiceError, UploadStalled
from service.telemetry import rejections_counted

AROUND = 1024
"""Bytes of a message around its file, at most."""

Announce = Callable[[Submitted], Awaitable[None]]


class SmallImage:
    """The one image of a call."""

    def __init__(self, admission: Admission, call: Call) -> None:
        self._admission, self._call = admission, call
        self._job: ImageJob | None = None
        self._began = time.perf_counter()

    async def upscale(self, context: Context, announce: Announce) -> pb.UpscaleImageResponse:
        """Read the request and make the answer; `announce` is told of the job. Raises ServiceError."""
        task = asyncio.create_task(self._upscaled(context, announce))
        code = "CANCELLED"
        try:
            await asyncio.wait({task})  # a client that leaves need not wait for what is at work here
            answer = task.result()
            code = "OK"
        except ServiceError as error:
            code = error.problem().grpc_code
            raise
        finally:
            record(self._began, self._job.model if self._job else "", code)
            await end({task})
            if self._job and code != "OK":
                await self._job.leave()
        return answer

    async def _upscaled(self, context: Context, announce: Announce) -> pb.UpscaleImageResponse:
        job, submitted = await self._submit(context)
        await announce(submitted)
        found = await job.result(submitted)
        if found.bytes > LARGEST - AROUND:
            raise ResultTooLarge(f"The result has {found.bytes:,} bytes, beyond the {LARGEST:,} of one message.")
        return pb.UpscaleImageResponse(
            job_id=submitted.job.id,
            mime_type=found.mime_type,
            width=found.width,
            height=found.height,
            data=await piece(self._admission.blobs, found, 0, found.bytes),
        )

    async def _submit(self, context: Context) -> tuple[ImageJob, Submitted]:
        """A function of its own, so that the file's bytes are gone while the job is waited for."""
        async with AsyncExitStack() as slot:
            with rejections_counted():
                await slot.enter_async_context(self._admission.upload_slot())
                request = await self._request(context)
            self._job = ImageJob(self._admission, self._call, request.options, slot.pop_all())
        return self._job, await self._job.submit(request.data)

    async def _request(self, context: Context) -> pb.UpscaleImageRequest:
        try:
            async with asyncio.timeout(self._admission.settings.slow_upload_s + LARGEST / SLOWEST):
                request = await context.read()
        except TimeoutError:
            raise UploadStalled(f"The message brings less than {SLOWEST // 1024} KiB a second.") from None
        except DecodeError:
            raise BadRequest(
                "What came is no UpscaleImageRequest.", "Generate the client from upscale.proto."
            ) from None
        if not isinstance(request, pb.UpscaleImageRequest):
            raise BadRequest("The call ended without its message.")
        return request
