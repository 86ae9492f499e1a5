"""A job's events over a real socket: in order, resumable, each once, and the end is the end."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from service.errors import ProcessingFailed
from service.job import Result
from service.queue.queue import Queue
from tests.lone_api import VARIANT, LoneApi, lone_api
from tests.pictures import photo
from tests.problems import check_problem

DONE = Result(key="none", mime_type="image/png", width=1, height=1, bytes=1)
FIELDS = {"state", "position", "tiles_done", "tiles_total", "eta_s"}


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder)) as started:
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


class Told:
    """The events of one connection, as `(id, kind, data)`."""

    def __init__(self, answer: httpx.Response) -> None:
        self.headers = answer.headers
        self._lines = answer.aiter_lines()

    async def next(self) -> tuple[str, str, dict] | None:
        fields: dict[str, str] = {}
        async for line in self._lines:
            name, _, value = line.partition(": ")
            fields[name] = value
            if not line and "data" in fields:
                return fields["id"], fields["event"], json.loads(fields["data"])
        return None

    async def rest(self) -> list[tuple[str, str, dict]]:
        told = []
        while event := await self.next():
            told.append(event)
        return told


@asynccontextmanager
async def listening(client: httpx.AsyncClient, job_id: str, **asked) -> AsyncIterator[Told]:
    async with client.stream("GET", f"/v1/jobs/{job_id}/events", **asked) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Told(answer)


async def submit(client: httpx.AsyncClient, **options: str) -> str:
    answer = await client.post(
        "/v1/upscale", files={"image": photo()}, data=options, headers={"Prefer": "respond-async"}
    )
    return str(answer.raise_for_status().json()["id"])


async def lease(queue: Queue, job_id: str) -> int:
    (leased,) = await queue.lease([VARIANT.name], "the test", 1)
    assert leased.job.id == job_id
    return leased.attempt


async def test_each_step_is_told_as_it_happens_and_then_the_stream_ends(client, queue):
    job_id = await submit(client)
    async with asyncio.timeout(30), listening(client, job_id) as told:
        assert told.headers["cache-control"] == "no-store"
        _, kind, data = await told.next()
        assert (kind, data["state"], data["position"]) == ("queued", "queued", 0)
        attempt = await lease(queue, job_id)
        await queue.progress(job_id, attempt, 1, 4)
        while (event := await told.next())[2]["tiles_done"] < 1:
            pass
        assert event[1:] == ("progress", event[2] | {"state": "running", "position": None, "tiles_total": 4})
        await queue.finish(job_id, attempt, DONE)
        ((_, kind, data),) = await told.rest()
    assert (kind, data["state"], data["eta_s"]) == ("succeeded", "succeeded", None)
    assert data.keys() == FIELDS


async def test_a_failure_says_why(client, queue):
    job_id = await submit(client)
    attempt = await lease(queue, job_id)
    problem = ProcessingFailed("The device burned.", "Buy another.").problem()
    await queue.fail(job_id, attempt, problem, retry=False)
    async with asyncio.timeout(30), listening(client, job_id) as told:
        _, kind, data = (await told.rest())[-1]
    assert kind == "failed"
    assert data["error"]["detail"] == "The device burned."
    assert "grpc_code" not in data["error"]


async def test_who_comes_back_misses_nothing_and_gets_nothing_twice(client, queue):
    job_id = await submit(client)
    attempt = await lease(queue, job_id)
    for tile in range(1, 5):
        await queue.progress(job_id, attempt, tile, 4)
    await queue.finish(job_id, attempt, DONE)
    async with listening(client, job_id) as told:
        whole = await told.rest()
    assert whole[0][1] == "queued"
    assert whole[-1][1] == "succeeded"
    for seen in range(len(whole) - 1):
        last = whole[seen][0]
        async with listening(client, job_id, headers={"Last-Event-ID": last}) as told:
            by_header = await told.rest()
        async with listening(client, job_id, params={"last_event_id": last}) as told:
            by_query = await told.rest()
        assert by_header == by_query == whole[seen + 1 :]
    gone = await client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": whole[-1][0]})
    assert (gone.status_code, gone.content) == (204, b"")  # an EventSource comes back no more


async def test_a_connection_lost_at_any_place_is_taken_up_there(client, queue):
    """While the job goes on, a client hangs up after each event and comes back."""
    job_id, seen, place = await submit(client), [], ""
    attempt = await lease(queue, job_id)
    await queue.progress(job_id, attempt, 1, 3)
    async with asyncio.timeout(60):
        for step in (2, 3, 0):
            headers = {"Last-Event-ID": place} if place else {}
            async with listening(client, job_id, headers=headers) as told:
                place, _, data = await told.next()
            seen.append((place, data["tiles_done"]))
            await (queue.progress(job_id, attempt, step, 3) if step else queue.finish(job_id, attempt, DONE))
        async with listening(client, job_id, headers={"Last-Event-ID": place}) as told:
            seen += [(place, data["tiles_done"]) for place, _, data in await told.rest()]
    async with listening(client, job_id) as told:
        assert seen == [(place, data["tiles_done"]) for place, _, data in await told.rest()]


async def test_moving_up_in_line_is_told_with_the_id_of_the_last_event(client, queue):
    first, second = await submit(client), await submit(client)
    async with asyncio.timeout(30), listening(client, second) as told:
        place, kind, data = await told.next()
        assert (kind, data["position"]) == ("queued", 1)
        await client.delete(f"/v1/jobs/{first}")
        again, kind, data = await told.next()
        assert (again, kind, data["position"]) == (place, "queued", 0)
        await client.delete(f"/v1/jobs/{second}")
        assert [kind for _, kind, _ in await told.rest()] == ["cancelled"]
    async with listening(client, second, headers={"Last-Event-ID": place}) as told:
        assert [kind for _, kind, _ in await told.rest()] == ["cancelled"]


@pytest.mark.parametrize("odd", ["x", "1-x", "$", ">", "-1", "9" * 30, "1;DEL", "٣"])
async def test_what_is_no_place_in_the_stream_is_refused(client, odd):
    job_id = await submit(client)
    answer = await client.get(f"/v1/jobs/{job_id}/events", params={"last_event_id": odd})
    check_problem(answer, 400, "bad-request")
    await client.delete(f"/v1/jobs/{job_id}")


async def test_an_unknown_job_has_no_events(client):
    check_problem(await client.get("/v1/jobs/nonesuch/events"), 404, "job-not-found")


async def test_a_stop_ends_the_streams_so_that_clients_go_elsewhere(state: Path):
    with lone_api(state, OMGSR_DRAIN_S="20") as api:
        async with api.queue() as queue, httpx.AsyncClient(base_url=api.url, timeout=30) as client:
            await queue.register("the test", [VARIANT], ttl_s=600)
            async with asyncio.timeout(15), listening(client, await submit(client)) as told:
                assert await told.next()
                api.process.terminate()
                assert await told.rest() == []
