"""What an orchestrator and a monitor ask: alive, ready, metrics."""

import asyncio
import math

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from service.api import docs
from service.api.dependencies import Admitting
from service.api.submit import Admission
from service.errors import Unavailable
from service.settings import Settings
from service.telemetry import STORED_LIMIT, record_queue, record_queue_away

router = APIRouter(tags=["operations"])

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_METRICS_EXAMPLE = """# HELP omgsr_workers_alive Workers with a fresh heartbeat.
# TYPE omgsr_workers_alive gauge
omgsr_workers_alive 1.0
"""


@router.get(
    "/livez",
    summary="The process answers",
    responses={200: {"description": "alive", "content": {"application/json": {"example": {"status": "alive"}}}}},
)
async def livez() -> dict[str, str]:
    """Whether this process must be started again: it need not, while this answers."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    summary="The service can work",
    responses={
        200: {
            "description": "ready",
            "content": {"application/json": {"example": {"status": "ready", "workers": 2}}},
        },
        **docs.problems(503),
    },
)
async def readyz(request: Request, admission: Admitting) -> dict[str, str | int]:
    """The queue answers, at least one worker is warm, and this process is not about to stop."""
    if request.app.state.draining.is_set():
        raise Unavailable("This process is stopping.", "Send new requests to another one.")
    workers = (await admission.queue.fleet()).workers
    if not workers:
        raise Unavailable("No worker is ready.", "Wait until a worker has warmed up, or look at the workers' logs.")
    return {"status": "ready", "workers": workers}


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "the text format",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": _METRICS_EXAMPLE}},
        },
        **docs.problems(404),
    },
)
async def metrics(request: Request, admission: Admitting) -> Response:
    """Here only where the server listens for this machine alone, and has no admin listener for it."""
    if not _at_home(request, admission.settings):
        raise HTTPException(404)
    return await metrics_answer(admission)


def _at_home(request: Request, settings: Settings) -> bool:
    proxied = any(name == "forwarded" or name.startswith("x-forwarded-") for name in request.headers)
    return settings.host in _LOOPBACK and settings.admin_port is None and not proxied


async def metrics_answer(admission: Admission) -> Response:
    """Prometheus text. While the queue does not answer, its gauges are absent, zero or NaN."""
    STORED_LIMIT.set(admission.settings.max_stored_bytes)
    try:
        fleet, memory = await asyncio.gather(admission.queue.fleet(), admission.queue.memory())
    except Unavailable:
        record_queue_away()
    else:
        record_queue(
            fleet.depth,
            fleet.backlog_s,
            fleet.age_s,
            workers=fleet.workers,
            stored_bytes=fleet.stored_bytes,
            dead=fleet.dead,
            memory_bytes=memory.used_bytes if memory else math.nan,
            memory_limit_bytes=memory.limit_bytes if memory else math.nan,
        )
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
