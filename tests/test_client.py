"""The client against a real API process and queue, over connections that break: nothing is lost, nothing done twice.

The test plays the worker, so that each trouble comes at the moment it is meant for.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from service.answers import JobEvent, events_in
from service.client import Client
from service.errors import BadOption, ProcessingFailed, RequestFailed, ServiceError, Unavailable
from service.job import JobState, Leased, Result, UpscaleOptions
from service.queue.blobs import BlobStore, result_key
from service.queue.embedded import socket_url
from service.queue.queue import Queue
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api
from tests.pictures import photo
from tests.proxy import Proxy
from tests.running import OMGSR, Part, running_stub

IMAGE = photo(8, 8)


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder), OMGSR_MAX_WAITING="3") as started:
        yield started


@pytest.fixture
async def queue(api: LoneApi) -> AsyncIterator[Queue]:
    async with api.queue() as made:
        await made.register("the test", [VARIANT], ttl_s=600)
        yield made
        for status in await made.active():
            await made.cancel(status.job.id)


@pytest.fixture
async def proxy(api: LoneApi) -> AsyncIterator[Proxy]:
    async with Proxy(api.url) as made:
        yield made


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    async with Client(proxy.url, patience_s=30) as made:
        yield made


async def finish(blobs: BlobStore, queue: Queue, leased: Leased, data: bytes = IMAGE) -> None:
    key = result_key(leased.job.id, leased.attempt)
    blobs.put(key, data)
    done = Result(key=key, mime_type="image/png", width=8, height=8, bytes=len(data), seconds={"encode": 0.5})
    assert await queue.finish(leased.job.id, leased.attempt, done)


async def test_a_photo_comes_back(api: LoneApi, client: Client, queue: Queue, tmp_path: Path) -> None:
    source, target = tmp_path / "mein Bild ä.png", tmp_path / "new" / "large.png"
    source.write_bytes(photo())
    events: list[JobEvent] = []
    upscaling = asyncio.create_task(
        client.upscale(source, UpscaleOptions(scale=2), into=target, on_progress=events.append)
    )
    leased = await first_lease(queue)
    assert (leased.job.options.scale, leased.job.filename) == (2, "mein Bild ä.png")
    await queue.progress(leased.job.id, leased.attempt, 1, 4)
    await finish(api.blobs, queue, leased)
    made = await upscaling
    assert (made.path, made.data, target.read_bytes()) == (target, b"", IMAGE)
    assert (made.job_id, made.mime_type, made.filename) == (leased.job.id, "image/png", "mein Bild ä_2x.png")
    assert made.timings["encode"] == 0.5
    assert [path.name for path in target.parent.iterdir()] == ["large.png"]
    assert [event.state for event in events if event.state.final] == [JobState.SUCCEEDED]
    assert (1, 4) in {(event.tiles_done, event.tiles_total) for event in events}
    assert (await client.result(made.job_id)).data == IMAGE
    assert (await client.job(made.job_id)).state is JobState.SUCCEEDED


async def test_events_are_told_once_each_however_often_the_connection_breaks(
    api: LoneApi, proxy: Proxy, client: Client, queue: Queue
) -> None:
    job = await client.submit(photo())
    leased = await first_lease(queue)
    got: list[JobEvent] = []
    tiles = iter(range(1, 6))
    async for event in client.events(job.id):
        got.append(event)
        await proxy.cut()  # what is next happens while nobody is connected
        if done := next(tiles, 0):
            await queue.progress(job.id, leased.attempt, done, 5)
        elif event.tiles_done == 5:
            await finish(api.blobs, queue, leased)
    history = [event async for event in queue.events(job.id)]
    assert [event.id for event in got] == [event.id for event in history]
    assert [event.tiles_done for event in got if event.state is JobState.RUNNING][-5:] == [1, 2, 3, 4, 5]
    assert proxy.connections >= 4


async def test_a_submit_whose_answer_is_lost_makes_one_job(proxy: Proxy, client: Client, queue: Queue) -> None:
    proxy.lose_answers(2)
    job = await client.submit(photo())
    assert proxy.lost == 2
    assert [status.job.id for status in await queue.active()] == [job.id]


async def test_a_result_that_is_cut_off_is_fetched_again(
    api: LoneApi, proxy: Proxy, client: Client, queue: Queue, tmp_path: Path
) -> None:
    job = await client.submit(photo())
    large = bytes(4 << 20)
    await finish(api.blobs, queue, await first_lease(queue), large)
    proxy.pass_only(1 << 20)
    made = await client.collect(job.id, into=tmp_path / "a.png")
    assert (proxy.lost, (tmp_path / "a.png").read_bytes() == large) == (1, True)
    assert made.path is not None
    assert list(tmp_path.iterdir()) == [made.path]


async def test_a_full_queue_is_waited_for_as_long_as_it_asks(api: LoneApi, queue: Queue) -> None:
    waits: list[tuple[ServiceError, float]] = []
    waiting = asyncio.Event()

    def waits_now(error: ServiceError, wait_s: float) -> None:
        waits.append((error, wait_s))
        waiting.set()

    async with Client(api.url, on_wait=waits_now) as client:
        crowd = [await client.submit(photo()) for _ in range(3)]
        late = asyncio.create_task(client.submit(photo()))
        await asyncio.wait_for(waiting.wait(), 30)
        await client.cancel(crowd[0].id)
        job = await late
    assert [status.job.id for status in await queue.active()] == [crowd[1].id, crowd[2].id, job.id]
    for error, wait_s in waits:
        assert isinstance(error, RequestFailed)
        assert error.found.status == 429
        assert error.retry_after_s is not None
        assert wait_s >= error.retry_after_s >= 1


async def test_without_patience_a_full_queue_is_told(api: LoneApi, queue: Queue) -> None:
    async with Client(api.url, patience_s=0) as client:
        for _ in range(3):
            await client.submit(photo())
        with pytest.raises(RequestFailed) as refused:
            await client.submit(photo())
    assert refused.value.retry_after_s
    assert "Retry after" in refused.value.advice


async def test_what_is_wrong_with_the_request_is_told_at_once(client: Client, queue: Queue, tmp_path: Path) -> None:
    for source, options, slug in [
        (b"no image", UpscaleOptions(), "not-an-image"),
        (photo()[:-40], UpscaleOptions(), "truncated"),
        (photo(), UpscaleOptions(model="nonesuch"), "unknown-model"),
    ]:
        with pytest.raises(RequestFailed) as refused:
            await client.upscale(source, options)
        assert refused.value.found.type.endswith(slug)
        assert refused.value.advice
    with pytest.raises(RequestFailed, match="no job nonesuch"):
        await client.collect("nonesuch")
    with pytest.raises(FileNotFoundError):
        await client.submit(tmp_path / "none.png")
    with pytest.raises(BadOption, match="no server's address"):
        Client("localhost:8000")


async def test_a_failed_job_tells_why_and_its_key_is_good_for_another_try(
    api: LoneApi, client: Client, queue: Queue
) -> None:
    upscaling = asyncio.create_task(client.upscale(photo(), idempotency_key="mine"))
    leased = await first_lease(queue)
    burned = ProcessingFailed("The device burned.", "Buy another.").problem()
    await queue.fail(leased.job.id, leased.attempt, burned, retry=False)
    with pytest.raises(RequestFailed, match=r"The device burned\.") as told:
        await upscaling
    assert told.value.advice == "Buy another."
    again = asyncio.create_task(client.upscale(photo(), idempotency_key="mine"))
    await finish(api.blobs, queue, await first_lease(queue))
    made = await again
    assert (await client.upscale(photo(), idempotency_key="mine")).job_id == made.job_id
    job = await client.submit(photo(), idempotency_key="mine")
    assert (job.id, job.joined, job.state) == (made.job_id, True, JobState.SUCCEEDED)


async def test_a_job_that_the_service_lost_is_made_again(api: LoneApi, client: Client, queue: Queue) -> None:
    upscaling = asyncio.create_task(client.upscale(photo()))
    lost = await first_lease(queue)
    async with Redis.from_url(socket_url(api.settings.state_dir)) as redis:
        await redis.flushall()
    await queue.register("the test", [VARIANT], ttl_s=600)
    again = await first_lease(queue)
    assert again.job.id != lost.job.id
    await finish(api.blobs, queue, again)
    assert (await upscaling).data == IMAGE


async def test_a_call_that_is_cancelled_cancels_its_job(proxy: Proxy, client: Client, queue: Queue) -> None:
    upscaling = asyncio.create_task(client.upscale(photo()))
    leased = await first_lease(queue)
    upscaling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upscaling
    assert (await queue.status(leased.job.id)).state is JobState.CANCELLED
    with proxy.held():  # the job is there before the client hears of it
        upscaling = asyncio.create_task(client.upscale(photo()))
        leased = await first_lease(queue)
        upscaling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upscaling
    assert (await queue.status(leased.job.id)).state is JobState.CANCELLED


async def test_it_outlives_the_death_of_the_api_process(state: Path) -> None:
    with running_stub(state, workers=0) as service:
        async with service.queue() as queue, Client(service.url, patience_s=60) as client:
            assert not await client.ready()
            await queue.register("the test", [VARIANT], ttl_s=600)
            assert await client.ready()
            assert (await client.models()).models[0].name == VARIANT.name
            events: list[JobEvent] = []
            begun = asyncio.Event()

            def told(event: JobEvent) -> None:
                events.append(event)
                if event.tiles_done:
                    begun.set()

            upscaling = asyncio.create_task(client.upscale(photo(), on_progress=told))
            leased = await first_lease(queue)
            await queue.progress(leased.job.id, leased.attempt, 1, 2)
            await asyncio.wait_for(begun.wait(), 30)
            port = service.url.rpartition(":")[2]
            service.api.process.kill()
            service.api.stop()
            await queue.progress(leased.job.id, leased.attempt, 2, 2)
            await finish(BlobStore(service.settings.blobs), queue, leased)
            service.api = Part.start([*OMGSR, "api"], service.env | {"OMGSR_PORT": port})
            assert (await upscaling).data == IMAGE
            assert [event.tiles_done for event in events if event.state is JobState.RUNNING][-2:] == [1, 2]


async def test_nobody_there_is_said_in_words() -> None:
    async with Client("http://127.0.0.1:9", patience_s=0.5) as client:
        assert not await client.ready()
        with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 does not answer"):
            await client.submit(photo())


@pytest.mark.parametrize("status", ["200 OK", "301 Moved\r\nLocation: https://elsewhere", "404 Not Found"])
async def test_another_kind_of_server_is_told_from_ours(status: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Client(url) as client:
        with pytest.raises(RequestFailed, match=f"answered {status[:3]}") as told:
            await client.models()
    assert "the address is that of an OMGSR service" in told.value.advice
    assert ("https://elsewhere" in told.value.detail) == ("301" in status)


@given(st.lists(st.integers(1, 40)), st.sampled_from(["\n", "\r\n"]))
async def test_events_are_read_however_the_bytes_come(cuts: list[int], end: str) -> None:
    lines = ["retry: 1000", "", ": still there", "", "id: 1-0", "event: queued", 'data: {"state":"queued",']
    lines += ['data: "position":2}', "", "id: 2-0", "event: failed", 'data: {"state":"failed","more":"ü"}', "", "id: 3"]
    data = end.join(lines).encode()

    async def body() -> AsyncIterator[bytes]:
        rest = data
        for cut in cuts:
            yield rest[:cut]
            rest = rest[cut:]
        yield rest

    answer = httpx.Response(200, content=body(), request=httpx.Request("GET", "http://server"))
    got = [(event.id, event.state.value, event.position) async for event in events_in(answer)]
    assert got == [("1-0", "queued", 2), ("2-0", "failed", None)]
