"""What an orchestrator and a monitor ask: alive, ready, metrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import Unavailable
from service.queue.queue import Queue
from service.telemetry import record_queue

router = APIRouter(tags=["operations"])


def _queue(request: Request) -> Queue:
    queue: Queue = request.app.state.admission.queue
    return queue


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "no queue, or no worker"}})
async def readyz(request: Request) -> dict[str, str | int]:
    """The queue answers and at least one worker is warm."""
    await _queue(request).ping()
    workers = await _queue(request).workers_alive()
    if not workers:
        raise Unavailable("No worker is ready.", "Wait until a worker has warmed up, or look at the workers' logs.")
    return {"status": "ready", "workers": workers}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text. While the queue does not answer, its gauges are absent or zero."""
    try:
        record_queue(await _queue(request).depth(), await _queue(request).workers_alive())
    except Unavailable:
        record_queue({}, 0)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
