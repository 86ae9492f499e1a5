"""Processes that die, stores that are full: every accepted job reaches exactly one final state (stub device)."""

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from redis.asyncio import Redis

from service.job import JobState, JobStatus
from service.queue.queue import Queue
from tests.pictures import photo
from tests.running import Part, StubService, running_stub
from tests.soak import times
from tests.stub_worker import POISON

LEASE_S = 2.0
BUSY_S = times(0, 10)
"""What a machine that runs other tests beside is given; the soak runs alone."""
LEASE = {"OMGSR_LEASE_S": str(LEASE_S)}
TILED = photo(48, 40)
"""20 tiles: long enough on its way to be met there."""
SMALL = photo(16, 16)


async def submit(client: httpx.AsyncClient, data: bytes) -> httpx.Response:
    headers = {"Content-Type": "image/png", "Prefer": "respond-async"}
    return await client.post("/v1/upscale", content=data, headers=headers)


async def accepted(client: httpx.AsyncClient, photos: Iterable[bytes]) -> list[str]:
    answers = await asyncio.gather(*(submit(client, data) for data in photos))
    assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers]
    return [answer.json()["id"] for answer in answers]


@asynccontextmanager
async def clients_of(service: StubService) -> AsyncIterator[tuple[httpx.AsyncClient, Queue]]:
    async with httpx.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as client, service.queue() as queue:
        yield client, queue


async def ends(queue: Queue, job_ids: Iterable[str]) -> list[JobStatus]:
    """All jobs, final; and each has come to one end only."""
    async with asyncio.timeout(120):
        statuses = await asyncio.gather(*map(queue.wait, job_ids))
    for status in statuses:
        story = [event.kind async for event in queue.events(status.job.id) if event.final]
        assert story == [status.state.value]
    return statuses


async def held_by(worker: Part, queue: Queue, job_ids: Iterable[str]) -> list[JobStatus]:
    """Those of the jobs that this worker has leased."""
    mine = f"-{worker.process.pid}-"
    statuses = await asyncio.gather(*map(queue.status, job_ids))
    return [status for status in statuses if status.state is JobState.RUNNING and mine in status.worker]


def states(statuses: Iterable[JobStatus]) -> set[JobState]:
    return {status.state for status in statuses}


async def test_workers_that_are_killed_lose_nothing(state: Path) -> None:
    with running_stub(state, workers=2, **LEASE) as service:
        async with clients_of(service) as (client, queue):
            everything: list[str] = []
            for _ in range(times(30, 3)):
                job_ids = await accepted(client, [TILED] * 8)
                victim = service.workers[-1]
                async with asyncio.timeout(30):
                    while not any(job.tiles_done for job in await held_by(victim, queue, job_ids)):
                        pass
                victim.process.kill()
                killed = time.monotonic()
                while await held_by(victim, queue, job_ids):
                    assert time.monotonic() - killed < LEASE_S + 2 + BUSY_S, "not taken back"
                everything += job_ids
                service.add_worker()
            assert states(await ends(queue, everything)) == {JobState.SUCCEEDED}


async def test_a_poisonous_photo_dies_alone(state: Path) -> None:
    with running_stub(state, **LEASE, OMGSR_MAX_ATTEMPTS="3") as service:
        async with clients_of(service) as (client, queue):
            (poison,) = await accepted(client, [photo(*POISON)])
            others = await accepted(client, [SMALL] * 12)
            deaths = 0
            while (await queue.status(poison)).state is not JobState.FAILED:
                if service.workers[-1].process.poll() is not None:
                    assert service.workers[-1].process.returncode == -signal.SIGKILL
                    deaths += 1
                    service.add_worker()
                await asyncio.sleep(0.05)
            (dead,) = await ends(queue, [poison])
            assert (dead.attempt, deaths) == (3, 3)
            assert [letter.job.id for letter in await queue.dead_letters()] == [poison]
            assert states(await ends(queue, others)) == {JobState.SUCCEEDED}


async def test_a_queue_server_that_is_killed_loses_no_accepted_job(state: Path) -> None:
    with running_stub(state, **LEASE) as service:
        async with clients_of(service) as (client, queue):
            job_ids: list[str] = []
            for _ in range(times(10, 2)):
                sending = [asyncio.create_task(submit(client, SMALL)) for _ in range(20)]
                await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                assert service.server.process is not None
                service.server.process.send_signal(signal.SIGKILL)
                service.server.process.wait()
                service.server.start()
                answers = await asyncio.gather(*sending)
                assert {answer.status_code for answer in answers} <= {202, 503}
                job_ids += [answer.json()["id"] for answer in answers if answer.status_code == 202]
            assert len(job_ids) > 0
            assert states(await ends(queue, job_ids)) == {JobState.SUCCEEDED}


async def test_a_queue_server_that_is_full_refuses_and_recovers(state: Path) -> None:
    with running_stub(state) as service:
        async with clients_of(service) as (client, queue), Redis.from_url(service.server.url) as server:
            before = await accepted(client, [SMALL] * 4)
            await server.config_set("maxmemory", "1mb")  # less than it holds already
            refused = await submit(client, SMALL)
            assert refused.status_code == 503, refused.text
            await server.config_set("maxmemory", "0")
            after = await accepted(client, [SMALL] * 4)
            assert states(await ends(queue, before + after)) == {JobState.SUCCEEDED}


@pytest.mark.parametrize("full_for", ["api", "worker"])
async def test_a_store_that_is_full_refuses_and_recovers(state: Path, full_for: str) -> None:
    with running_stub(state, OMGSR_MAX_ATTEMPTS="50") as service:
        part = service.api if full_for == "api" else service.workers[0]
        process = psutil.Process(part.process.pid)
        limits = process.rlimit(resource.RLIMIT_FSIZE)
        async with clients_of(service) as (client, queue):
            process.rlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # a write that goes on fails, as on a full disk
            if full_for == "api":
                assert (await submit(client, TILED)).status_code == 503
            else:
                (job_id,) = await accepted(client, [TILED])
                async with asyncio.timeout(60):
                    while (await queue.status(job_id)).attempt < 2:
                        await asyncio.sleep(0.02)
            process.rlimit(resource.RLIMIT_FSIZE, limits)
            job_ids = await accepted(client, [TILED]) + ([job_id] if full_for == "worker" else [])
            assert states(await ends(queue, job_ids)) == {JobState.SUCCEEDED}
        assert not list(Path(service.settings.blobs).rglob("*.part"))


@pytest.mark.parametrize("stopped", ["api", "worker"])
async def test_a_stop_under_load_fails_no_one(state: Path, stopped: str) -> None:
    with running_stub(state, workers=2, OMGSR_DRAIN_S="30") as service:
        async with clients_of(service) as (client, _):
            asking = [
                asyncio.create_task(
                    client.post("/v1/upscale", content=TILED, headers={"Content-Type": "image/png"}, timeout=90)
                )
                for _ in range(16)
            ]
            async with service.queue() as queue:
                while not any(status.tiles_done for status in await queue.active()):
                    await asyncio.sleep(0.02)
            part = service.api if stopped == "api" else service.workers[0]
            part.process.terminate()
            told = time.monotonic()
            if stopped == "api":
                while (await client.get("/readyz")).status_code == 200:
                    assert time.monotonic() - told < 1 + 5, "still ready"  # 5: for a busy machine
            assert {(await each).status_code for each in asking} == {200}
            assert part.process.wait(60) == 0
