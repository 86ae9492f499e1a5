"""Crash tests that really crash: real processes, real signals."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pytest
from PIL import Image
from redis.asyncio import Redis

from service.errors import Unavailable
from service.job import Event, Job, JobState, JobStatus, UpscaleOptions
from service.queue.blobs import BlobStore, input_key
from service.queue.embedded import EmbeddedServer, socket_path, socket_url
from service.queue.queue import Queue
from service.settings import Settings
from tests.running import Service, running_worker, settings_of, stopped

PROBLEM = Unavailable("It went wrong.").problem()
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
    after = "0"
    async with asyncio.timeout(30):
        while not (jobs := await queue.active()):
            after = await queue.arrival(after)
    return jobs[0]


async def submit_photo(queue: Queue, settings: Settings) -> str:
    """Put one large photo in line, as the API does, and return its job's id."""
    job_id = uuid4().hex
    BlobStore(settings.blobs).put(input_key(job_id), large_photo())
    options = UpscaleOptions(model="tiny-s")
    await queue.submit(Job(id=job_id, options=options, width=SIDE, height=SIDE, input_key=input_key(job_id)))
    return job_id


async def one_worker_alive(queue: Queue) -> None:
    """Return when the worker that died has passed out of mind, and its replacement is there."""
    async with asyncio.timeout(60):
        while await queue.workers_alive() != 1:
            await asyncio.sleep(0.05)


@pytest.fixture
async def shared(service: Service) -> AsyncIterator[Queue]:
    """The queue of the whole service."""
    async with Queue.of(service.settings) as queue:
        yield queue


@pytest.fixture
async def alone(state: Path, tiny_models: Path) -> AsyncIterator[Queue]:
    """A queue without any worker."""
    with EmbeddedServer(state):
        async with Queue.of(settings_of(state, tiny_models)) as queue:
            yield queue


async def test_a_killed_worker_is_replaced_and_the_client_gets_its_image(service: Service, shared: Queue) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as client:
        files = {"image": ("p.png", large_photo())}
        answer = asyncio.create_task(client.post("/v1/upscale", files=files, data={"model": "tiny-s"}))
        job = await only_job(shared)
        await in_mid_job(shared, job.job.id)
        service.child("worker").send_signal(signal.SIGKILL)
        got = await answer
    assert got.status_code == 200, got.text
    assert size_of(got.content) == (4 * SIDE, 4 * SIDE)
    status = await shared.status(job.job.id)
    assert status.state is JobState.SUCCEEDED
    assert status.attempt >= 2
    assert len([event async for event in shared.events(job.job.id) if event.final]) == 1
    await one_worker_alive(shared)


async def test_a_queue_server_that_was_killed_is_replaced_and_the_client_gets_its_image(
    service: Service, shared: Queue
) -> None:
    async with Redis.from_url(socket_url(service.settings.state_dir)) as raw:
        await raw.config_set("appendfsync", "always")  # else what came last may be lost with the server
    async with httpx.AsyncClient(base_url=service.url, timeout=120) as client:
        files = {"image": ("p.png", large_photo())}
        answer = asyncio.create_task(client.post("/v1/upscale", files=files, data={"model": "tiny-s"}))
        job = await only_job(shared)
        await in_mid_job(shared, job.job.id)
        service.child("-server").send_signal(signal.SIGKILL)
        got = await answer
    assert got.status_code == 200, got.text
    assert size_of(got.content) == (4 * SIDE, 4 * SIDE)
    assert len([event async for event in shared.events(job.job.id) if event.final]) == 1


async def test_a_worker_stopped_past_its_lease_and_continued_gives_one_result(
    service: Service, shared: Queue, tiny_models: Path
) -> None:
    settings = service.settings
    with running_worker(settings.state_dir, tiny_models, OMGSR_LEASE_S="4") as (second, log):
        job_id = await submit_photo(shared, settings)
        await in_mid_job(shared, job_id)
        second_has_it = (await shared.status(job_id)).worker.split("-")[-2] == str(second.pid)
        holder, its_log = (second, log) if second_has_it else (service.child("worker"), service.log)
        with stopped(holder):
            async with asyncio.timeout(60):
                done = await shared.wait(job_id)
        assert done.state is JobState.SUCCEEDED
        assert done.attempt >= 2
        await asyncio.to_thread(its_log.find, f"(?=.*{job_id}).*(job dropped|image came too late)", 60)
    assert await shared.status(job_id) == done
    assert len([event async for event in shared.events(job_id) if event.final]) == 1
    assert done.result
    assert size_of(BlobStore(settings.blobs).get(done.result.key)) == (4 * SIDE, 4 * SIDE)
    await one_worker_alive(shared)


async def test_a_cancelled_job_is_dropped_and_a_bad_one_fails_alone(service: Service, shared: Queue) -> None:
    job_id = await submit_photo(shared, service.settings)
    await in_mid_job(shared, job_id)
    assert await shared.cancel(job_id) is JobState.CANCELLED
    await asyncio.to_thread(service.log.find, f"(?=.*{job_id}).*job dropped", 30)
    bad = uuid4().hex
    BlobStore(service.settings.blobs).put(input_key(bad), b"no image at all")
    options = UpscaleOptions(model="tiny-f")
    await shared.submit(Job(id=bad, options=options, width=9, height=9, input_key=input_key(bad)))
    good = await submit_photo(shared, service.settings)
    async with asyncio.timeout(60):
        failed = await shared.wait(bad)
        assert (await shared.wait(good)).state is JobState.SUCCEEDED
    assert failed.error
    assert (failed.state, failed.error.status, failed.attempt) == (JobState.FAILED, 415, 1)


async def test_a_worker_told_to_stop_gives_back_what_it_cannot_finish(
    alone: Queue, state: Path, tiny_models: Path
) -> None:
    with running_worker(state, tiny_models, OMGSR_DRAIN_S="0") as (worker, _):
        job_id = await submit_photo(alone, settings_of(state, tiny_models))
        await in_mid_job(alone, job_id)
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 30) == 0
    status = await alone.status(job_id)
    assert (status.state, status.position) == (JobState.QUEUED, 0)
    assert await alone.workers_alive() == 0
    assert await alone.variants() == {}


async def test_a_job_whose_lease_is_on_its_way_when_the_worker_stops_is_given_back(
    alone: Queue, state: Path, tiny_models: Path
) -> None:
    job_id = await submit_photo(alone, settings_of(state, tiny_models))
    async with answers_held(socket_path(state), job_id) as (url, let_go):
        with running_worker(state, tiny_models, until="model ready", REDIS_URL=url, OMGSR_DRAIN_S="0") as (worker, _):
            async with asyncio.timeout(60):
                async for event in alone.events(job_id):
                    if event.kind == "progress":  # the server has leased it, the worker does not know yet
                        break
            worker.terminate()
            ended = asyncio.create_task(asyncio.to_thread(worker.wait, 30))
            await asyncio.wait({ended}, timeout=1)  # a worker that does not wait for the answer is gone by now
            let_go.set()
            assert await ended == 0
    assert (await alone.status(job_id)).state is JobState.QUEUED


@asynccontextmanager
async def answers_held(server: Path, word: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A way to the queue's server on which answers with the word in them are held until they are let go."""
    let_go = asyncio.Event()

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(2**16):
            if answers and word.encode() in data:
                await let_go.wait()
            sink.write(data)
            await sink.drain()
        sink.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(server)
        with suppress(ConnectionError), closing(writer), closing(to_server):
            await asyncio.gather(forward(reader, to_server, answers=False), forward(from_server, writer, answers=True))

    async with await asyncio.start_server(connect, "127.0.0.1") as proxy:
        yield f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", let_go


async def test_a_worker_told_to_stop_finishes_what_it_can(alone: Queue, state: Path, tiny_models: Path) -> None:
    with running_worker(state, tiny_models, OMGSR_DRAIN_S="60") as (worker, _):
        job_id = await submit_photo(alone, settings_of(state, tiny_models))
        await in_mid_job(alone, job_id)
        worker.terminate()
        assert (await alone.wait(job_id)).state is JobState.SUCCEEDED
        assert await asyncio.to_thread(worker.wait, 30) == 0


async def test_a_worker_stops_at_once_when_no_queue_answers(state: Path, tiny_models: Path) -> None:
    nobody = "redis://127.0.0.1:1"
    with running_worker(state, tiny_models, until="queue unreachable", REDIS_URL=nobody) as (worker, _):
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 20) == 0


async def test_a_suspect_is_worked_on_alone(alone: Queue, state: Path, tiny_models: Path) -> None:
    settings = settings_of(state, tiny_models)
    first, second = [await submit_photo(alone, settings) for _ in range(2)]
    [suspect] = await alone.lease(["tiny-s"], "a worker that died", 1)
    assert suspect.job.id == first
    assert await alone.fail(suspect.job.id, suspect.attempt, PROBLEM, retry=True)
    with running_worker(state, tiny_models):
        one, other = await alone.wait(first), await alone.wait(second)
    assert one.state is other.state is JobState.SUCCEEDED
    assert one.finished_at
    assert other.started_at
    assert other.started_at >= one.finished_at
