"""Two releases side by side on one queue: each finishes the other's jobs, and what one does not know it leaves alone.

This release, as it is, is the old one; tests/next_release.py is the new one. That this release goes on with what
earlier ones left behind is in test_queue_format.py.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from service.errors import Unavailable
from service.job import JobState, JobStatus
from service.queue.blobs import BlobStore
from service.queue.queue import Queue
from tests.next_release import NEW
from tests.pictures import photo
from tests.running import PORTS, Part, StubService, running_stub
from tests.stub_jobs import ends

LEASE = {"OMGSR_LEASE_S": "2", "OMGSR_MAX_ATTEMPTS": "5"}
TILED = photo(48, 40)
"""20 tiles: long enough on its way to be met there."""
NEXT = [sys.executable, "-m", "tests.next_release"]


async def submit(client: httpx.AsyncClient, **options: str) -> httpx.Response:
    headers = {"Content-Type": "image/png", "Prefer": "respond-async"}
    return await client.post("/v1/upscale", params=options, content=TILED, headers=headers)


async def accepted(client: httpx.AsyncClient, count: int, **options: str) -> list[str]:
    answers = await asyncio.gather(*(submit(client, **options) for _ in range(count)))
    assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers]
    return [answer.json()["id"] for answer in answers]


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        yield client


def next_worker(service: StubService) -> Part:
    """One of the next release, warm."""
    worker = Part.start([*NEXT, "worker"], service.env)
    service.workers.append(worker)
    worker.log.find("worker ready")
    return worker


@contextmanager
def next_api(service: StubService) -> Iterator[str]:
    """One of the next release on the same queue; its URL."""
    api = Part.start([*NEXT, "api"], service.env)
    try:
        yield f"http://127.0.0.1:{api.log.find(PORTS)[1]}"
    finally:
        api.stop()


def of(status: JobStatus, worker: Part) -> bool:
    return f"-{worker.process.pid}-" in status.worker


async def killed_at_work(worker: Part, queue: Queue, job_ids: list[str]) -> set[str]:
    """Kill the worker while it has some of the jobs half done; these."""
    async with asyncio.timeout(30):
        while True:
            found = await asyncio.gather(*map(queue.status, job_ids))
            mine = [each for each in found if each.state is JobState.RUNNING and of(each, worker)]
            if any(each.tiles_done for each in mine):
                worker.process.kill()
                worker.process.wait()
                return {each.job.id for each in mine}


async def test_workers_of_two_releases_finish_each_others_jobs(state: Path) -> None:
    with running_stub(state, **LEASE) as service:
        (old,) = service.workers
        new = next_worker(service)
        with next_api(service) as url:
            async with service.queue() as queue, client_of(service.url) as client, client_of(url) as new_client:
                for victim, heir_of_it in ((old, lambda: new), (new, service.add_worker)):
                    heir = heir_of_it()
                    job_ids = await accepted(client, 8) + await accepted(new_client, 8)
                    orphans = await killed_at_work(victim, queue, job_ids)
                    done = {each.job.id: each for each in await ends(queue, *job_ids)}
                    assert {each.state for each in done.values()} == {JobState.SUCCEEDED}
                    assert all(of(done[name], heir) and done[name].attempt > 1 for name in orphans)
                    for name in job_ids:  # by an API of either release
                        for asking in (client, new_client):
                            assert (await asking.get(f"/v1/jobs/{name}/result")).status_code == 200


async def test_a_job_of_a_newer_format_is_refused_or_waits_for_a_worker_that_knows_it(state: Path) -> None:
    with running_stub(state, **LEASE) as service, next_api(service) as url:
        async with service.queue() as queue, client_of(url) as client, client_of(service.url) as old_client:
            refused = await submit(client, color_fix=NEW)
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:omgsr:problem:workers-too-old")
            assert (await queue.active(), BlobStore(service.settings.blobs).jobs(0)) == ([], set())

            new = next_worker(service)
            (first,) = await accepted(client, 1, color_fix=NEW)
            assert await killed_at_work(new, queue, [first]) == {first}
            plain = await accepted(old_client, 4)
            (second,) = await accepted(client, 1, color_fix=NEW)  # a worker that was here may come back
            assert {each.state for each in await ends(queue, *plain)} == {JobState.SUCCEEDED}
            async with asyncio.timeout(30):
                while (waiting := await queue.status(first)).state is not JobState.QUEUED:
                    await asyncio.sleep(0.02)
            assert (waiting.attempt, waiting.readable, (await queue.status(second)).attempt) == (1, False, 0)
            seen = (await old_client.get(f"/v1/jobs/{second}")).json()
            assert (seen["state"], seen["model"]) == ("queued", "stub")
            models = (await old_client.get("/v1/models")).json()["models"]
            assert [each["name"] for each in models] == ["stub"]
            assert (await queue.fleet()).depth == {"stub": 2}

            newer = next_worker(service)
            done = await ends(queue, first, second)
            assert [(each.state, of(each, newer)) for each in done] == [(JobState.SUCCEEDED, True)] * 2
            assert (await old_client.get(f"/v1/jobs/{second}/result")).status_code == 200


async def test_a_job_that_cannot_be_read_becomes_a_dead_letter_and_harms_no_worker(state: Path) -> None:
    with running_stub(state, workers=0, **LEASE) as service:
        async with service.queue() as queue, Redis.from_url(service.server.url) as server:
            service.add_worker().process.kill()  # its variant is known now, and nobody takes the jobs
            async with client_of(service.url) as client:
                broken, good = await accepted(client, 2)
            key = f"{{omgsr}}:job:{broken}"
            text = await server.hget(key, "job")
            await server.hset(key, "job", text.replace(b'"png"', b'"a format to come"'))
            worker = service.add_worker()
            failed, fine = await ends(queue, broken, good)
            assert (failed.state, failed.attempt, failed.readable) == (JobState.FAILED, 1, False)
            assert (fine.state, worker.process.poll()) == (JobState.SUCCEEDED, None)
            assert failed.error
            assert "another release" in failed.error.detail
            assert [letter.job.id for letter in await queue.dead_letters()] == [broken]
            with pytest.raises(Unavailable, match="newer release"):
                await queue.replay(broken, BlobStore(service.settings.blobs))
