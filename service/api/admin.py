"""The admin listener: metrics and dead letters, for operators alone. It asks for no key: keep it from the world."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import APIRouter, FastAPI, Response

from service.api import problems
from service.api.dependencies import Admitting
from service.api.envelope import Envelope
from service.api.health import livez, metrics_answer
from service.api.ports import listen
from service.api.submit import Admission
from service.job import JobStatus
from service.settings import Settings

router = APIRouter()
router.add_api_route("/livez", livez)


@router.get("/metrics")
async def metrics(admission: Admitting) -> Response:
    """Prometheus text."""
    return await metrics_answer(admission)


@router.get("/dead-letters")
async def dead_letters(admission: Admitting) -> list[JobStatus]:
    """The jobs that were given up: out of attempts, or the death of their workers."""
    return await admission.queue.dead_letters()


@router.get("/dead-letters/{job_id}")
async def dead_letter(admission: Admitting, job_id: str) -> JobStatus:
    """One of them."""
    return await admission.queue.letter(job_id)


@router.post("/dead-letters/{job_id}/replay", status_code=201)
async def replay(admission: Admitting, job_id: str) -> dict[str, str]:
    """Put it in line again as a new job; the letter is gone."""
    return {"id": await admission.queue.replay(job_id, admission.blobs)}


@router.delete("/dead-letters/{job_id}", status_code=204)
async def bury(admission: Admitting, job_id: str) -> None:
    """Remove it for good; its files go with the next sweep."""
    await admission.queue.bury(job_id)


@asynccontextmanager
async def admin_listener(admission: Admission, settings: Settings) -> AsyncIterator[int | None]:
    """Listens while the block lasts, if the settings name a port; gives the port. Raises PortTaken."""
    if settings.admin_port is None:
        yield None
        return
    app = FastAPI(openapi_url=None)
    app.include_router(router)
    problems.install(app)
    app.add_middleware(Envelope)
    app.state.admission = admission
    sock = listen(settings.admin_host, settings.admin_port)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Leaves the signals to the main listener's server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
