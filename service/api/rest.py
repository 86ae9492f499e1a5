"""REST: upscale, models."""

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from starlette.requests import ClientDisconnect

from service.api import docs
from service.api.auth import Caller
from service.api.body import discard, read_upload
from service.api.dependencies import Admitting, Calling
from service.api.jobs import image_answer, job_answer
from service.api.submit import Admission, Submitted, parse_options
from service.api.views import ModelsView
from service.api.watch import just_in_line
from service.errors import BadRequest, Unavailable
from service.job import JobStatus
from service.telemetry import rejections_counted
from service.tracing import span

router = APIRouter()

JOINED = "Idempotency-Replayed"
_ASYNC = "respond-async"


@router.post(
    "/v1/upscale",
    tags=["upscale"],
    summary="Upscale a photo",
    openapi_extra=docs.UPSCALE,
    response_class=Response,
    responses={
        200: docs.IMAGE,
        202: docs.ACCEPTED,
        **docs.problems(400, 401, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def upscale(
    request: Request,
    admission: Admitting,
    caller: Calling,
    prefer: Annotated[
        list[str] | None, Header(description="`respond-async`: answer with the job at once", examples=[[_ASYNC]])
    ] = None,
    idempotency_key: Annotated[
        list[str] | None,
        Header(
            description="up to 255 visible characters of your own, such as a UUID: the same request with the same key "
            "joins the first one's job, for as long as its result is kept",
            examples=[["8e03978e-40d5-43e8-bc93-6894a57f9324"]],
        ),
    ] = None,
) -> Response:
    """Answers the upscaled image or, with `Prefer: respond-async`, the job that makes it.

    The photo is the body itself, or the form's field `image`; options come as form fields or in the query. Images are
    not fetched from URLs. A client that leaves before the answer cancels its job, unless it gave an `Idempotency-Key`.
    """
    wants_job = _wants_job(prefer or [])
    with (
        span("POST /v1/upscale", traceparent=request.headers.get("traceparent", "")),
        rejections_counted(),
    ):
        key = _one_key(idempotency_key)
        submitted = await _submit(request, admission, caller, key, attended=not (wants_job or key))
    request.state.model, request.state.job_id = submitted.job.options.model, submitted.job.id
    headers = {JOINED: "true"} if submitted.joined else {}
    if wants_job:
        with just_in_line(submitted.job.id):
            status = await admission.queue.status(submitted.job.id)
        headers |= {"Location": f"/v1/jobs/{status.job.id}", "Preference-Applied": _ASYNC}
        return job_answer(status, 202, headers)
    answer = await image_answer(request, admission, await _end_or_leave(request, admission, submitted, kept=bool(key)))
    answer.headers.update(headers)
    return answer


@router.get(
    "/v1/models",
    tags=["models"],
    summary="The models that can be asked for",
    responses={200: docs.MODELS, **docs.problems(401, 503)},
)
async def models(admission: Admitting, _: Calling) -> ModelsView:
    """For each its base, native size, mid-timestep, licence, and seconds of device time per megapixel of late."""
    variants = await admission.queue.variants()
    return ModelsView(default=admission.offer.default(variants), models=list(variants.values()))


async def _submit(request: Request, admission: Admission, caller: Caller, key: str, *, attended: bool) -> Submitted:
    """A function of its own, so that the file's bytes are gone while the job is waited for."""
    limit = admission.settings.max_upload_bytes
    async with AsyncExitStack() as slot:
        try:
            await slot.enter_async_context(admission.upload_slot())
        except Unavailable:
            await discard(request, limit)
            raise
        upload = await read_upload(request, limit, admission.settings.slow_upload_s)
        return await admission.submit(
            upload.data,
            parse_options(upload.fields),
            caller,
            filename=upload.filename,
            request_id=request.state.request_id,
            idempotency_key=key,
            attended=attended,
        )


def _wants_job(prefer: list[str]) -> bool:
    return any(wish.partition(";")[0].strip().lower() == _ASYNC for wish in ",".join(prefer).split(","))


def _one_key(given: list[str] | None) -> str:
    if given is None:
        return ""
    if len(given) > 1 or not given[0]:
        raise BadRequest("The header `Idempotency-Key` is empty, or there are several.", "Send one, or none.")
    return given[0]


async def _end_or_leave(request: Request, admission: Admission, submitted: Submitted, *, kept: bool) -> JobStatus:
    """The job's end; when the client leaves before it, the job is cancelled: nobody waits for it, unless `kept`."""
    left = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({left, submitted.finished}, return_when=asyncio.FIRST_COMPLETED)
        if not submitted.finished.done():
            if kept:
                raise ClientDisconnect
            await admission.queue.cancel(submitted.job.id)
        return await asyncio.shield(submitted.finished)
    finally:
        left.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
