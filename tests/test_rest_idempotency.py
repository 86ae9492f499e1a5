"""A request sent again with its `Idempotency-Key` makes no second job; who waits for what decides over its life."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx
import pytest

from service.job import JobState, Result
from service.queue.blobs import result_key
from service.queue.queue import Queue
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api
from tests.pictures import photo
from tests.problems import check_problem

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder), OMGSR_ATTEND_S="1") as started:
        yield started
        assert "Traceback" not in started.said


@pytest.fixture
async def queue(api: LoneApi) -> AsyncIterator[Queue]:
    async with api.queue() as made:
        await made.register("the test", [VARIANT], ttl_s=600)
        yield made


@pytest.fixture
async def client(api: LoneApi, queue: Queue) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as made:
        yield made


def keyed(key: str, **more: str) -> dict[str, str]:
    return {"Idempotency-Key": key, **more}


async def finish(api: LoneApi, queue: Queue, leased, data: bytes = b"the result") -> None:
    key = result_key(leased.job.id, leased.attempt)
    api.blobs.put(key, data)
    done = Result(key=key, mime_type="image/png", width=1, height=1, bytes=len(data))
    assert await queue.finish(leased.job.id, leased.attempt, done)


async def test_the_same_request_again_joins_the_first_one_s_job(api, client, queue):
    key = uuid4().hex
    first, again = [
        await client.post("/v1/upscale", files={"image": photo()}, headers=keyed(key, **ASYNC)) for _ in range(2)
    ]
    assert first.json()["id"] == again.json()["id"] == again.headers["x-job-id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    waiting = asyncio.create_task(client.post("/v1/upscale", files={"image": photo()}, headers=keyed(key)))
    await finish(api, queue, await first_lease(queue))
    assert (await waiting).content == b"the result"
    late = await client.post("/v1/upscale", files={"image": photo()}, headers=keyed(key))
    assert (late.content, late.headers["x-job-id"]) == (b"the result", first.json()["id"])
    assert await queue.lease([VARIANT.name], "the test", 9) == []


async def test_twins_at_the_same_moment_are_one_job_and_one_file(api, client, queue, tmp_path):
    key = uuid4().hex
    answers = await asyncio.gather(
        *(client.post("/v1/upscale", files={"image": photo()}, headers=keyed(key, **ASYNC)) for _ in range(8))
    )
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert [answer.headers.get("idempotency-replayed") for answer in answers].count("true") == 7
    leased = await queue.lease([VARIANT.name], "the test", 9)
    assert [one.job.id for one in leased] == [job_id]
    assert api.blobs.get(leased[0].job.input_key) == photo()
    files = {path.parent.name for path in Path(api.settings.blobs).rglob("input")}
    assert await queue.exists(files) == files
    await queue.cancel(job_id)


async def test_another_file_or_other_options_under_the_key_are_refused(client):
    key = uuid4().hex
    first = await client.post("/v1/upscale", files={"image": photo()}, headers=keyed(key, **ASYNC))
    for changed in ({"files": {"image": photo(41)}}, {"files": {"image": photo()}, "params": {"scale": "2"}}):
        answer = await client.post("/v1/upscale", headers=keyed(key, **ASYNC), **changed)
        check_problem(answer, 422, "key-reused")
    await client.delete(first.headers["location"])


@pytest.mark.parametrize("odd", ["", "a b", "x" * 256, "\x7f", b"\xfc"])
async def test_what_is_no_key_is_refused(client, odd):
    headers = [(b"Idempotency-Key", odd.encode() if isinstance(odd, str) else odd), (b"Prefer", b"respond-async")]
    check_problem(await client.post("/v1/upscale", files={"image": photo()}, headers=headers), 400, "bad-request")


async def test_two_keys_are_refused(client):
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    check_problem(await client.post("/v1/upscale", files={"image": photo()}, headers=headers), 400, "bad-request")


async def test_a_client_that_leaves_cancels_its_job_unless_it_gave_a_key(api, queue):
    for headers, state in (({}, JobState.CANCELLED), (keyed(uuid4().hex), JobState.SUCCEEDED)):
        async with httpx.AsyncClient(base_url=api.url, timeout=30) as leaving:
            call = asyncio.create_task(leaving.post("/v1/upscale", files={"image": photo()}, headers=headers))
            leased = await first_lease(queue)
            call.cancel()
        assert leased.job.attended is (state is JobState.CANCELLED)
        if state is JobState.SUCCEEDED:
            await asyncio.to_thread(api.log.find, rf'"path": "/v1/upscale", "code": 400.*{leased.job.request_id}')
            await finish(api, queue, leased)
        async with asyncio.timeout(20):
            assert (await queue.wait(leased.job.id)).state is state


async def test_a_job_is_attended_while_its_sync_call_waits(api, client, queue):
    """`attend_s` is one second here: without word from the API the job would be dropped."""
    waiting = asyncio.create_task(client.post("/v1/upscale", files={"image": photo()}))
    leased = await first_lease(queue)
    ended, after = asyncio.create_task(queue.wait(leased.job.id)), time.monotonic() + 3
    while time.monotonic() < after and not ended.done():
        assert (await queue.reclaim()).abandoned == 0
        await asyncio.wait({ended}, timeout=0.1)
    await finish(api, queue, leased)
    assert (await ended).state is JobState.SUCCEEDED
    assert (await waiting).status_code == 200


async def test_a_job_whose_api_process_is_gone_is_dropped(state: Path):
    with lone_api(state, OMGSR_ATTEND_S="0.5") as api:
        async with api.queue() as queue, httpx.AsyncClient(base_url=api.url, timeout=30) as client:
            await queue.register("the test", [VARIANT], ttl_s=600)
            call = asyncio.create_task(client.post("/v1/upscale", files={"image": photo()}))
            leased = await first_lease(queue)
            await queue.release(leased.job.id, leased.attempt)
            api.process.suspend()
            try:
                async with asyncio.timeout(20):
                    while not (await queue.reclaim()).abandoned:
                        await asyncio.sleep(0.1)
                assert (await queue.status(leased.job.id)).state is JobState.CANCELLED
            finally:
                api.process.resume()
            check_problem(await call, 409, "cancelled")
