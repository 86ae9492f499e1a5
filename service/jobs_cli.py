"""`omgsr jobs`: what is under way, and the jobs that were given up, listed, shown, replayed and buried."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from model.console import fail
from service.console import errors_told

if TYPE_CHECKING:
    from service.job import JobStatus
    from service.queue.blobs import BlobStore
    from service.queue.queue import Queue

jobs_app = typer.Typer(help="The jobs of a running service.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID", help="As the service answered it, or a list shows it.")]

_out = Console(highlight=False, soft_wrap=True, markup=False)


@jobs_app.command("list")
def show_active() -> None:
    """List the jobs that run, then those that wait, in the order in which they will be taken."""

    async def run(queue: "Queue", _: "BlobStore") -> None:
        for status in await queue.active():
            tiles = f"{status.tiles_done}/{status.tiles_total}" if status.tiles_total else "-"
            ends = "-" if status.eta_s is None else f"{status.eta_s:.0f} s"
            job = status.job
            _out.print(f"{job.id}  {status.state}  {job.options.model}  {job.client}  tiles {tiles}  ends in {ends}")

    _with_queue(run)


@jobs_app.command("show")
def show(job_id: JobId) -> None:
    """Show everything that is known of a job, a dead letter's too, as JSON."""

    async def run(queue: "Queue", _: "BlobStore") -> None:
        _out.print((await queue.status(job_id)).model_dump_json(indent=2))

    _with_queue(run)


@jobs_app.command("cancel")
def cancel(job_id: JobId) -> None:
    """Cancel a job: one that waits at once, one that runs before its next batch."""

    async def run(queue: "Queue", _: "BlobStore") -> None:
        state = await queue.cancel(job_id)
        if state != "cancelled":
            fail(f"The job has {state} already.")
        _out.print(f"cancelled {job_id}")

    _with_queue(run)


@jobs_app.command("dead")
def show_dead() -> None:
    """List the dead letters, the oldest first: jobs that were given up, with what they died of."""

    async def run(queue: "Queue", _: "BlobStore") -> None:
        for status in await queue.dead_letters():
            _out.print(_letter_line(status))

    _with_queue(run)


@jobs_app.command("replay")
def replay(job_id: JobId) -> None:
    """Put a dead letter in line again, as a new job, and print its id."""

    async def run(queue: "Queue", blobs: "BlobStore") -> None:
        _out.print(await queue.replay(job_id, blobs))

    _with_queue(run)


@jobs_app.command("bury")
def bury(job_id: JobId) -> None:
    """Remove a dead letter and its files for good."""

    async def run(queue: "Queue", _: "BlobStore") -> None:
        await queue.bury(job_id)
        _out.print(f"buried {job_id}")

    _with_queue(run)


def _letter_line(status: "JobStatus") -> str:
    job, died = status.job, datetime.fromtimestamp(status.finished_at or 0, UTC)
    said = status.error.detail if status.error else ""
    return f"{job.id}  {died:%Y-%m-%d %H:%M:%SZ}  {job.options.model}  {job.client}  tried {status.attempt}×  {said}"


def _with_queue(act: Callable[["Queue", "BlobStore"], Awaitable[None]]) -> None:
    """Do it on the queue and the store of this environment's settings."""
    with errors_told():
        from service.queue.blobs import BlobStore
        from service.queue.queue import Queue
        from service.settings import Settings

        async def run() -> None:
            settings = Settings()
            async with Queue.of(settings) as queue:
                await act(queue, BlobStore(settings.blobs))

        asyncio.run(run())
