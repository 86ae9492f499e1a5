"""REST: jobs, their events and their results."""

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from service.api import docs, sse
from service.api.auth import Caller
from service.api.dependencies import Admitting, Calling
from service.api.results import PIECE, piece, pieces, result_name
from service.api.submit import Admission
from service.api.views import JOB_ID, JobView
from service.errors import Cancelled, NotReady, RequestFailed
from service.job import JobState, JobStatus
from service.telemetry import WAIT_STAGE

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

JobId = Annotated[str, Path(description="as `X-Job-Id` and `Location` told it", examples=[JOB_ID])]


@router.get(
    "/{job_id}",
    summary="The job as it stands",
    response_model=JobView,
    responses={200: docs.JOB, **docs.problems(401, 404, 503)},
)
async def job(admission: Admitting, caller: Calling, job_id: JobId) -> Response:
    """Its state, its place in line, its tiles and how long it will take still."""
    return job_answer(await _status(admission, caller, job_id))


@router.get(
    "/{job_id}/result",
    summary="The upscaled image",
    response_class=Response,
    responses={200: docs.IMAGE, **docs.problems(401, 404, 409, 500, 503, 504)},
)
async def result(request: Request, admission: Admitting, caller: Calling, job_id: JobId) -> Response:
    """The image of a job that has succeeded; of one that failed, what it failed of."""
    return await image_answer(request, admission, await _status(admission, caller, job_id))


def _after(
    last_event_id: Annotated[
        str | None, Header(description="the last event seen: go on after it", examples=["1767225601200-0"])
    ] = None,
    in_query: Annotated[
        str | None,
        Query(alias="last_event_id", description="the same, where no header can be set", examples=["1767225601200-0"]),
    ] = None,
) -> str:
    return sse.place_of(last_event_id, in_query)


@router.get(
    "/{job_id}/events",
    summary="What happens to the job, as it happens",
    response_class=Response,
    responses={**docs.EVENTS, **docs.problems(400, 401, 404, 503)},
)
async def events(
    request: Request,
    admission: Admitting,
    caller: Calling,
    job_id: JobId,
    after: Annotated[str, Depends(_after)],
) -> Response:
    """Server-sent events, each with the job's state, place in line, tiles and `eta_s` as `data`.

    A job that moves up in line is told by another `queued` with the same id.
    """
    status = await _status(admission, caller, job_id)
    request.state.model = status.job.options.model
    if status.state.final and not [event async for event in admission.queue.events(job_id, after)]:
        return Response(status_code=204)  # what tells an EventSource to come back no more
    stream = sse.EventStream(admission.queue, job_id, after, request.app.state.closing)
    return StreamingResponse(stream.lines(), media_type=sse.CONTENT_TYPE, headers={"X-Accel-Buffering": "no"})


@router.delete(
    "/{job_id}",
    summary="Cancel the job",
    response_model=JobView,
    responses={200: docs.CANCELLED, **docs.problems(401, 404, 503)},
)
async def cancel(admission: Admitting, caller: Calling, job_id: JobId) -> Response:
    """A job that waits ends at once, one that runs before its next batch; one that has ended stays as it is."""
    await _status(admission, caller, job_id)
    await admission.queue.cancel(job_id)
    return job_answer(await admission.queue.status(job_id))


def job_answer(status: JobStatus, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The job as JSON."""
    return Response(JobView.of(status).json_bytes(), code, headers, "application/json")


async def image_answer(request: Request, admission: Admission, status: JobStatus) -> Response:
    """The job's result. Raises what stands in its place."""
    request.state.model, request.state.job_id = status.job.options.model, status.job.id
    if status.state is JobState.FAILED and status.error is not None:
        raise RequestFailed(status.error)
    if status.state is JobState.CANCELLED:
        raise Cancelled("The job was cancelled.")
    if status.result is None:
        raise NotReady(f"The job is {status.state.value}.")
    found = status.result
    request.state.stages = dict(found.seconds)
    if status.started_at is not None:
        request.state.stages.setdefault(WAIT_STAGE, max(0.0, status.started_at - status.created_at))
    headers = {"Content-Disposition": f"inline; {_named(result_name(status.job))}"}
    first = await piece(admission.blobs, found, 0, min(PIECE, found.bytes))
    if len(first) == found.bytes:
        return Response(first, 200, headers, found.mime_type)

    async def body() -> AsyncIterator[bytes]:
        yield first
        async for each in pieces(admission.blobs, found, len(first)):
            yield each

    return StreamingResponse(body(), 200, {**headers, "Content-Length": str(found.bytes)}, found.mime_type)


async def _status(admission: Admission, caller: Caller, job_id: str) -> JobStatus:
    status = await admission.queue.status(job_id)
    caller.check_sees(status.job)
    return status


def _named(name: str) -> str:
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace('"', "_").replace("\\", "_")
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
