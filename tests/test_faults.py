"""Crash tests that really crash: real processes, real signals."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from service.job import Event, Job, JobState, JobStatus, UpscaleOptions
from service.queue.blobs import BlobStore, input_key
from service.queue.embedded import EmbeddedServer
from service.queue.queue import Queue
from tests.running import running_service, running_worker, settings_of

SHORT_LEASE = {"OMGSR_LEASE_S": "1.5"}
SIDE = 192  # at 4×, 121 tiles: enough work to be caught in


def large_photo() -> bytes:
    y, x = np.mgrid[:SIDE, :SIDE]
    pixels = np.dstack([x % 256, y % 256, (x * y) % 256]).astype(np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(data)) as image:
        image.load()
        return image.size


async def in_mid_job(queue: Queue, job_id: str) -> Event:
    """Wait until some of the job's tiles are done."""
    async with asyncio.timeout(60):
        async for event in queue.events(job_id):
            assert not event.final, "too fast to be caught: make the photo larger"
            if event.tiles_done:
                return event
    raise AssertionError


async def only_job(queue: Queue) -> JobStatus:
    async with asyncio.timeout(30):
        while not (jobs := await queue.active()):
            await asyncio.sleep(0.01)
    return jobs[0]


@asynccontextmanager
async def queued_photo(state: Path, models: Path) -> AsyncIterator[tuple[Queue, BlobStore, str]]:
    """A queue of the test's own with one large photo in it."""
    settings = settings_of(state, models, lease_s=float(SHORT_LEASE["OMGSR_LEASE_S"]))
    with EmbeddedServer(state):
        async with Queue.of(settings) as queue:
            blobs = BlobStore(settings.blobs)
            blobs.put(input_key("photo"), large_photo())
            options = UpscaleOptions(model="tiny-s")
            await queue.submit(Job(id="photo", options=options, width=SIDE, height=SIDE, input_key=input_key("photo")))
            yield queue, blobs, "photo"


async def test_a_killed_worker_is_replaced_and_the_client_gets_its_image(state: Path, tiny_models: Path) -> None:
    with running_service(state, tiny_models, **SHORT_LEASE) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=90) as client, Queue.of(service.settings) as queue:
            answer = asyncio.create_task(
                client.post("/v1/upscale", files={"image": ("p.png", large_photo())}, data={"model": "tiny-s"})
            )
            job = await only_job(queue)
            await in_mid_job(queue, job.job.id)
            service.child("worker").send_signal(signal.SIGKILL)
            got = await answer
            assert got.status_code == 200, got.text
            assert size_of(got.content) == (4 * SIDE, 4 * SIDE)
            status = await queue.status(job.job.id)
            assert (status.state, status.attempt) == (JobState.SUCCEEDED, 2)


async def test_a_worker_stopped_past_its_lease_and_continued_gives_one_result(state: Path, tiny_models: Path) -> None:
    async with queued_photo(state, tiny_models) as (queue, blobs, job_id):
        with running_worker(state, tiny_models, **SHORT_LEASE) as (stopped, log):
            await in_mid_job(queue, job_id)
            stopped.send_signal(signal.SIGSTOP)
            try:
                with running_worker(state, tiny_models, **SHORT_LEASE):
                    async with asyncio.timeout(60):
                        done = await queue.wait(job_id)
            finally:
                stopped.send_signal(signal.SIGCONT)
            assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
            await asyncio.to_thread(log.find, "job dropped|image came too late", 60)
        assert await queue.status(job_id) == done
        finals = [event async for event in queue.events(job_id) if event.final]
        assert len(finals) == 1
        assert done.result
        assert size_of(blobs.get(done.result.key)) == (4 * SIDE, 4 * SIDE)


async def test_a_worker_told_to_stop_gives_back_what_it_cannot_finish(state: Path, tiny_models: Path) -> None:
    async with queued_photo(state, tiny_models) as (queue, _, job_id):
        with running_worker(state, tiny_models, **SHORT_LEASE, OMGSR_DRAIN_S="0") as (worker, _):
            await in_mid_job(queue, job_id)
            worker.terminate()
            assert await asyncio.to_thread(worker.wait, 30) == 0
        status = await queue.status(job_id)
        assert (status.state, status.position) == (JobState.QUEUED, 0)
        assert await queue.workers_alive() == 0


async def test_a_worker_told_to_stop_finishes_what_it_can(state: Path, tiny_models: Path) -> None:
    async with queued_photo(state, tiny_models) as (queue, _, job_id):
        with running_worker(state, tiny_models, OMGSR_DRAIN_S="60") as (worker, _):
            await in_mid_job(queue, job_id)
            worker.terminate()
            assert (await queue.wait(job_id)).state is JobState.SUCCEEDED
            assert await asyncio.to_thread(worker.wait, 30) == 0


async def test_a_cancelled_job_is_dropped_and_the_worker_goes_on(state: Path, tiny_models: Path) -> None:
    async with queued_photo(state, tiny_models) as (queue, blobs, job_id):
        with running_worker(state, tiny_models, **SHORT_LEASE) as (_, log):
            await in_mid_job(queue, job_id)
            assert await queue.cancel(job_id) is JobState.CANCELLED
            await asyncio.to_thread(log.find, "job dropped", 30)
            blobs.put(input_key("bad"), b"no image at all")
            await queue.submit(
                Job(id="bad", options=UpscaleOptions(model="tiny-f"), width=9, height=9, input_key=input_key("bad"))
            )
            async with asyncio.timeout(30):
                failed = await queue.wait("bad")
            assert failed.error
            assert failed.error.status == 415
            assert failed.attempt == 1
