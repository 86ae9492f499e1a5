"""What OpenAPI says beyond the code: examples that are real, problems by status, and the page that shows it all."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from service import errors
from service.api.problems import CONTENT_TYPE, UNAVAILABLE_S
from service.api.views import CANCELLED_EXAMPLE, JOB_ID, MODELS_EXAMPLE, QUEUED_EXAMPLE, RUNNING_EXAMPLE, ProblemView
from service.images import MIME_TYPES
from service.job import UpscaleOptions

router = APIRouter()

_PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src https://cdn.jsdelivr.net 'unsafe-inline'",
        "style-src https://cdn.jsdelivr.net 'unsafe-inline'",
        "img-src data: https://fastapi.tiangolo.com",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    )
)
"""Swagger UI comes from a CDN, as FastAPI has it; nothing else on this server may."""

_PROBLEMS: dict[int, tuple[errors.ServiceError, ...]] = {
    400: (
        errors.BadRequest("The form has no file in the field `image`.", "Send it as curl does: -F image=@photo.jpg"),
    ),
    401: (errors.Unauthenticated("The request carries no API key."),),
    404: (errors.JobNotFound(f"There is no job {JOB_ID}."), errors.UnknownModel("No model named 'omgsr-x' is served.")),
    408: (errors.UploadStalled("The upload brings less than 16 KiB a second."),),
    409: (errors.NotReady("The job is running."), errors.Cancelled("The job was cancelled.")),
    413: (
        errors.TooManyBytes("The file has more than the 33,554,432 bytes that this server takes."),
        errors.TooManyPixels("The result would be 24000×16000 pixels, beyond 16,777,216."),
    ),
    415: (errors.WrongContentType("The request's Content-Type is 'text/plain'."),),
    422: (
        errors.BadOption("scale: Input should be less than or equal to 8 (got '9')."),
        errors.Truncated("The file ends before its image does."),
        errors.KeyReused("The idempotency key belongs to another file or to other options."),
    ),
    429: (errors.QueueFull("5,000 jobs wait already.", retry_after_s=42),),
    500: (errors.ProcessingFailed("The worker could not make the image."),),
    503: (errors.Unavailable("No worker has started yet, so no model is served."),),
    504: (errors.DeadlinePassed("The job's deadline came before its result."),),
}
_SECONDS = {"schema": {"type": "integer"}, "description": "seconds after which to try again"}
_TEXT = {"schema": {"type": "string"}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a path may answer with, each with an example; and any other."""
    schema = {"$ref": f"#/components/schemas/{ProblemView.__name__}"}
    told: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        examples = {
            error.slug: {"value": ProblemView.of(error.problem()).model_dump(exclude_none=True)}
            for error in _PROBLEMS[status]
        }
        told[status] = {
            "description": " or ".join(error.title for error in _PROBLEMS[status]),
            "content": {CONTENT_TYPE: {"schema": schema, "examples": examples}},
        }
        if status in (429, 503):
            told[status]["headers"] = {"Retry-After": {**_SECONDS, "example": 42 if status == 429 else UNAVAILABLE_S}}
    told["default"] = {"description": "any other problem", "content": {CONTENT_TYPE: {"schema": schema}}}
    return told


def job_answer(description: str, example: dict[str, Any]) -> dict[str, Any]:
    """An answer that is a job."""
    schema = {"$ref": "#/components/schemas/JobView"}
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}


_HEADERS = {
    "X-Job-Id": {**_TEXT, "description": "the job that made it", "example": JOB_ID},
    "Server-Timing": {
        **_TEXT,
        "description": "milliseconds by stage",
        "example": "queue_wait;dur=3.1, encode;dur=101.7, predict;dur=48.0, decode;dur=214.2, total;dur=402.9",
    },
}
IMAGE: dict[str, Any] = {
    "description": "the upscaled image; its file name keeps the photo's",
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MIME_TYPES.values()},
    "headers": _HEADERS
    | {"Content-Disposition": {**_TEXT, "example": "inline; filename=\"cat_4x.png\"; filename*=UTF-8''cat_4x.png"}},
}
IMAGE["content"]["image/png"]["example"] = "(the bytes of a PNG)"
JOB, CANCELLED = job_answer("the job", RUNNING_EXAMPLE), job_answer("the job as it is now", CANCELLED_EXAMPLE)
ACCEPTED = job_answer("with `Prefer: respond-async`: the job", QUEUED_EXAMPLE)
ACCEPTED["headers"] = {
    "Location": {**_TEXT, "example": f"/v1/jobs/{JOB_ID}"},
    "X-Job-Id": _HEADERS["X-Job-Id"],
    "Idempotency-Replayed": {**_TEXT, "description": "`true`: the job of an earlier request", "example": "true"},
}
MODELS = {"description": "the models", "content": {"application/json": {"example": MODELS_EXAMPLE}}}
_EVENTS_EXAMPLE = """retry: 1000

id: 1767225600000-0
event: queued
data: {"state":"queued","position":0,"tiles_done":0,"tiles_total":0,"eta_s":3.1}

id: 1767225601200-0
event: progress
data: {"state":"running","position":null,"tiles_done":3,"tiles_total":9,"eta_s":2.4}

id: 1767225603600-0
event: succeeded
data: {"state":"succeeded","position":null,"tiles_done":9,"tiles_total":9,"eta_s":null}
"""
_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "one event, field by field",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "description": "its place in the job's history"},
        "event": {"enum": ["queued", "progress", "succeeded", "failed", "cancelled"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "state, position, tiles_done, tiles_total, eta_s and, of a job that failed, error",
        },
        "retry": {"type": "integer"},
    },
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`queued`, `progress`, …, then one of `succeeded`, `failed`, `cancelled`",
        "content": {"text/event-stream": {"schema": _EVENT, "example": _EVENTS_EXAMPLE}},
    },
    204: {"description": "nothing comes after that event: the job has ended, and it was the last one"},
}

_OPTION_EXAMPLES = {
    "model": "omgsr-s-mini",
    "scale": 4,
    "strength": 1.0,
    "color_fix": "adain",
    "format": "png",
    "quality": 95,
    "depth": 8,
    "metadata": "keep",
    "priority": 0,
    "deadline_s": 60,
}
_OPTIONS: dict[str, Any] = {
    name: schema | {"example": _OPTION_EXAMPLES[name]}
    for name, schema in UpscaleOptions.model_json_schema()["properties"].items()
}
_FILE = {"type": "string", "format": "binary", "description": "the photo"}
UPSCALE: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "description": schema.get("description", f"the result's {name}"),
            "schema": schema,
            "example": _OPTION_EXAMPLES[name],
        }
        for name, schema in _OPTIONS.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": _FILE, **_OPTIONS}},
                "example": {"image": "(the bytes of a photo)", "scale": 2, "format": "webp"},
            },
            "image/*": {"schema": _FILE, "example": "(the bytes of a photo)"},
        },
    },
}


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Swagger UI."""
    root = request.scope.get("root_path", "").rstrip("/")
    page = get_swagger_ui_html(openapi_url=f"{root}/openapi.json", title="OMGSR Serve")
    page.headers["Content-Security-Policy"] = _PAGE_POLICY
    return page
