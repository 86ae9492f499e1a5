"""REST: upscale, jobs, models."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from service.api.body import discard, read_upload
from service.api.problems import CONTENT_TYPE
from service.api.submit import Admission, Submitted, parse_options, result_name
from service.api.views import JobView, ModelsView
from service.errors import Cancelled, NotReady, RequestFailed, Unavailable
from service.images import MIME_TYPES
from service.job import JobState, JobStatus, Problem, UpscaleOptions
from service.telemetry import WAIT_STAGE, rejections_counted

router = APIRouter()

_PROBLEM = {"model": Problem, "content": {CONTENT_TYPE: {}}}
_IMAGE: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MIME_TYPES.values()}
_OPTIONS: dict[str, Any] = UpscaleOptions.model_json_schema()["properties"]
_UPSCALE_DOCS: dict[str, Any] = {
    "parameters": [
        *({"name": name, "in": "query", "schema": schema} for name, schema in _OPTIONS.items()),
        {"name": "Prefer", "in": "header", "schema": {"type": "string", "examples": ["respond-async"]}},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}, **_OPTIONS},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}


def _admission(request: Request) -> Admission:
    admission: Admission = request.app.state.admission
    return admission


@router.get("/", include_in_schema=False)
async def home() -> RedirectResponse:
    """To the documentation."""
    return RedirectResponse("/docs")


@router.post(
    "/v1/upscale",
    tags=["upscale"],
    summary="Upscale a photo",
    openapi_extra=_UPSCALE_DOCS,
    response_class=Response,
    responses={
        200: {"content": _IMAGE, "description": "the upscaled image"},
        202: {"model": JobView, "description": "with `Prefer: respond-async`: the job"},
        **dict.fromkeys((400, 404, 413, 415, 422, 503), _PROBLEM),
    },
)
async def upscale(request: Request) -> Response:
    """Answers the upscaled image or, with `Prefer: respond-async`, the job that makes it.

    Options come as form fields or in the query. A client that leaves before the answer cancels its job.
    """
    admission = _admission(request)
    with rejections_counted():
        submitted = await _submit(request, admission)
    request.state.model = submitted.job.options.model
    if _wants_job(request):
        status = await admission.queue.status(submitted.job.id)
        headers = {"Location": f"/v1/jobs/{status.job.id}", "Preference-Applied": "respond-async"}
        return _job_answer(status, 202, headers)
    return await _image_answer(request, await _end_or_leave(request, admission, submitted))


@router.get("/v1/jobs/{job_id}", tags=["jobs"], response_model=JobView, responses={404: _PROBLEM})
async def job(request: Request, job_id: str) -> Response:
    """The job as it stands."""
    return _job_answer(await _admission(request).queue.status(job_id))


@router.get(
    "/v1/jobs/{job_id}/result",
    tags=["jobs"],
    response_class=Response,
    responses={200: {"content": _IMAGE}, **dict.fromkeys((404, 409), _PROBLEM)},
)
async def result(request: Request, job_id: str) -> Response:
    """The upscaled image of a job that has succeeded; of one that failed, what it failed of."""
    return await _image_answer(request, await _admission(request).queue.status(job_id))


@router.delete("/v1/jobs/{job_id}", tags=["jobs"], response_model=JobView, responses={404: _PROBLEM})
async def cancel(request: Request, job_id: str) -> Response:
    """Cancel a job; one that has ended already stays as it is."""
    queue = _admission(request).queue
    await queue.cancel(job_id)
    return _job_answer(await queue.status(job_id))


@router.get("/v1/models", tags=["models"], responses={503: _PROBLEM})
async def models(request: Request) -> ModelsView:
    """The models that can be asked for."""
    admission = _admission(request)
    variants = await admission.queue.variants()
    default = (await admission.variant("")).name if variants else admission.settings.default_model
    return ModelsView(default=default, models=list(variants.values()))


async def _submit(request: Request, admission: Admission) -> Submitted:
    """A function of its own, so that the file's bytes are gone while the job is waited for."""
    limit = admission.settings.max_upload_bytes
    async with AsyncExitStack() as slot:
        try:
            await slot.enter_async_context(admission.upload_slot())
        except Unavailable:
            await discard(request, limit)
            raise
        upload = await read_upload(request, limit)
        options = parse_options(upload.fields)
        return await admission.submit(
            upload.data, options, filename=upload.filename, request_id=request.state.request_id
        )


def _wants_job(request: Request) -> bool:
    wishes = ",".join(request.headers.getlist("prefer")).split(",")
    return any(wish.partition(";")[0].strip().lower() == "respond-async" for wish in wishes)


def _job_answer(status: JobStatus, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(JobView.of(status).json_bytes(), code, headers, "application/json")


async def _image_answer(request: Request, status: JobStatus) -> Response:
    if status.state is JobState.FAILED and status.error is not None:
        raise RequestFailed(status.error)
    if status.state is JobState.CANCELLED:
        raise Cancelled("The job was cancelled.")
    if status.result is None:
        raise NotReady(f"The job is {status.state.value}.")
    found = status.result
    request.state.model = status.job.options.model
    request.state.stages = dict(found.seconds)
    if status.started_at is not None:
        request.state.stages.setdefault(WAIT_STAGE, max(0.0, status.started_at - status.created_at))
    name = result_name(status.job)
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace('"', "_")
    headers = {"Content-Disposition": f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"}
    return Response(await _admission(request).fetch(found.key), 200, headers, found.mime_type)


async def _end_or_leave(request: Request, admission: Admission, submitted: Submitted) -> JobStatus:
    """The job's end; when the client leaves before it, the job is cancelled: nobody waits for it."""
    left = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({left, submitted.finished}, return_when=asyncio.FIRST_COMPLETED)
        if not submitted.finished.done():
            await admission.queue.cancel(submitted.job.id)
        return await asyncio.shield(submitted.finished)
    finally:
        left.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
