"""One image of a gRPC call from its whole file to its result."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from omgsr.v1 import upscale_pb2 as pb

from service.api.grpc_call import Call
from service.api.messages import options_of
from service.api.submit import Admission, Submitted
from service.errors import BadRequest, Cancelled, RequestFailed, ServiceError
from service.job import Event, JobStatus, Result
from service.telemetry import REQUEST_DURATION, rejections_counted
from service.tracing import span

Tell = Callable[[Event], Awaitable[None]]


class ImageJob:
    """Its job ends with whoever asked for it, unless it has an idempotency key: then others may come for it.

    `slot` is what lets the file be held in memory; it is left as soon as the bytes are stored.
    """

    def __init__(self, admission: Admission, call: Call, start: pb.Start, slot: AsyncExitStack) -> None:
        self._admission, self._call, self._start, self._slot = admission, call, start, slot
        self._kept = bool(start.idempotency_key)
        self._submitting: asyncio.Task[Submitted] | None = None
        self._unwanted: ServiceError | None = None
        self._job_id = ""
        self._cancelling: asyncio.Task[None] | None = None
        self.model = ""
        """The variant's name, once it is known to be one."""

    async def submit(self, data: bytes) -> Submitted:
        """Put the image in line. Raises ServiceError."""
        # Shielded: a client that leaves now must not leave a job that nobody knows of.
        self._submitting = asyncio.create_task(self._submit(data))
        submitted = await asyncio.shield(self._submitting)
        self._job_id, self.model = submitted.job.id, submitted.job.options.model
        if self._unwanted:
            self._cancel()
        return submitted

    async def follow(self, submitted: Submitted, tell: Tell) -> Result:
        """Tell what happens to the job, and return its result. Raises ServiceError."""
        async for event in self._admission.queue.events(submitted.job.id):
            if not event.final:
                await tell(event)
        return await self.result(submitted)

    async def result(self, submitted: Submitted) -> Result:
        """Wait for the job's result. Raises ServiceError."""
        return self._outcome(await asyncio.shield(submitted.finished))

    def give_up(self, why: ServiceError) -> None:
        """End the job, whoever else may want it: `follow` and `result` will raise `why`."""
        self._unwanted = why
        self._cancel()

    async def leave(self) -> None:
        """Nobody waits here any more: cancel the job, also one just being submitted."""
        if not self._submitting:
            await self._slot.aclose()
        else:
            with suppress(ServiceError):
                submitted = await self._submitting
                if not self._kept:
                    await self._admission.queue.cancel(submitted.job.id)
        if self._cancelling:
            await self._cancelling

    async def _submit(self, data: bytes) -> Submitted:
        start, call = self._start, self._call
        async with self._slot:
            with span("gRPC image", traceparent=call.traceparent), rejections_counted():
                if start.total_bytes not in (0, len(data)):
                    raise BadRequest(f"total_bytes says {start.total_bytes}, {len(data)} bytes came.")
                options = options_of(start)
                return await self._admission.submit(
                    data,
                    # A key stands for the options as they were given, and its job outlives the call.
                    options if self._kept else call.bounded(options),
                    call.caller,
                    request_id=call.request_id,
                    idempotency_key=start.idempotency_key,
                    attended=not self._kept,
                )

    def _outcome(self, status: JobStatus) -> Result:
        if self._unwanted:
            raise self._unwanted
        if status.error is not None:
            raise RequestFailed(status.error)
        if status.result is None:
            raise Cancelled("The image was cancelled.")
        return status.result

    def _cancel(self) -> None:
        """Once there is a job; a task of its own, for who gives the image up has more to do than to wait for it."""
        if self._job_id and not self._cancelling:
            self._cancelling = asyncio.create_task(self._cancel_job())

    async def _cancel_job(self) -> None:
        with suppress(ServiceError):  # ended long ago, or the queue is away: nothing is left to cancel here
            await self._admission.queue.cancel(self._job_id)


def record(began: float, model: str, code: str) -> None:
    """An image's, or a call's, end to the metrics. `began`: on the clock of `time.perf_counter`."""
    REQUEST_DURATION.labels("grpc", model, code).observe(time.perf_counter() - began)
