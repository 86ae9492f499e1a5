"""What is refused, and whether the time after which to come back is the truth."""

import asyncio
import heapq
import random
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from service.errors import QueueFull, RateExceeded, ShareFull, StorageFull, TooManyRequests, Unavailable
from service.job import JobState, VariantInfo
from service.queue.blobs import BlobStore
from service.queue.embedded import EmbeddedServer
from service.queue.limits import Limits
from service.queue.queue import Queue
from service.queue.sweep import sweep
from tests.jobs import RESULT, job

VARIANT = VariantInfo(
    name="m", family="sd", base="b", mid_timestep=1, native_size=64, process_size=64, license="MIT", color_fix="adain"
)
WORKERS = 3
S_PER_MP = 0.5


@pytest.fixture
async def served(queue: Queue) -> Queue:
    """A queue whose variant has live workers and a known speed."""
    for number in range(WORKERS):
        await queue.register(f"worker {number}", [VARIANT], 60)
    await queue.calibrate("m", S_PER_MP)
    return queue


async def refused(queue: Queue, limits: Limits, **told) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as error:
        await queue.submit(job(uuid4().hex, **told), limits)
    assert error.value.retry_after_s
    assert error.value.problem().retry_after_s == error.value.retry_after_s
    return error.value


async def test_a_full_line_says_when_a_tenth_of_it_is_taken(served: Queue) -> None:
    limits = Limits(max_waiting=30)
    for number in range(30):
        await served.submit(job(str(number), cost=8 if number % 2 else 4), limits)
    error = await refused(served, limits)
    assert isinstance(error, QueueFull)
    assert error.retry_after_s == 3 * 6 * S_PER_MP / WORKERS
    await served.lease(["m"], "w", 1)
    await served.submit(job("fits"), limits)


async def test_bounds_hold_however_many_come_at_once(served: Queue) -> None:
    limits = Limits(max_waiting=10)
    calls = (served.submit(job(str(number)), limits) for number in range(50))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, QueueFull) for answer in answers) == 40
    assert sum((await served.fleet()).depth.values()) == 10


async def test_a_client_is_held_to_its_share_and_others_are_not(served: Queue) -> None:
    limits = Limits(max_client_waiting=20)
    for number in range(20):
        await served.submit(job(f"mine {number}", client="mine", cost=6), limits)
    error = await refused(served, limits, client="mine")
    assert isinstance(error, ShareFull)
    assert error.retry_after_s == 2 * 6 * S_PER_MP / WORKERS
    await served.submit(job("theirs", client="theirs", cost=6, weight=3), limits)
    error = await refused(served, limits, client="mine")
    assert error.retry_after_s == 2 * 6 * S_PER_MP / WORKERS * (1 + 3)


async def test_active_jobs_are_those_that_wait_and_those_under_way(served: Queue) -> None:
    limits = Limits(max_active=2)
    for name in "ab":
        await served.submit(job(name), limits)
    await served.lease(["m"], "w", 1)
    assert isinstance(await refused(served, limits), ShareFull)
    await served.lease(["m"], "w", 1)
    assert isinstance(await refused(served, limits), ShareFull)
    await served.finish("a", 1, RESULT)
    await served.submit(job("c"), limits)


async def test_a_rate_lets_a_minutes_jobs_through_and_then_one_at_a_time(served: Queue) -> None:
    limits = Limits(per_minute=3)
    for number in range(3):
        await served.submit(job(str(number)), limits)
        await served.submit(job(str(number)), limits)  # its repetition counts for nothing
    error = await refused(served, limits)
    assert isinstance(error, RateExceeded)
    assert error.retry_after_s in (19, 20)
    await served.submit(job("theirs", client="theirs"), limits)
    quick = Limits(per_minute=600)
    for number in range(600):
        await served.submit(job(f"quick {number}", client="quick"), quick)
    async with asyncio.timeout(10):
        while True:
            try:
                await served.submit(job("a tenth of a second later", client="quick"), quick)
            except RateExceeded:
                await asyncio.sleep(0.02)
            else:
                break


async def test_the_store_is_full_until_something_expires(valkey: str, state: Path) -> None:
    blobs, limits = BlobStore(str(state / "blobs")), Limits(max_stored_bytes=100)
    async with Queue(valkey, namespace=uuid4().hex, result_ttl_s=2.5) as queue:
        await queue.submit(job("a", size=60), limits)
        await queue.lease(["m"], "w", 1)
        await queue.finish("a", 1, RESULT)
        assert (await queue.fleet()).stored_bytes == 60 + RESULT.bytes
        error = await refused(queue, limits, size=50)
        assert isinstance(error, StorageFull)
        assert error.retry_after_s in (2, 3)
        await queue.submit(job("b", size=31), limits)
        async with asyncio.timeout(20):
            while not await sweep(blobs, queue, older_than_s=60):
                await asyncio.sleep(0.02)
        assert (await queue.fleet()).stored_bytes == 31
        await queue.submit(job("c", size=50), limits)


async def until_taken(queue: Queue, client: str | None, count: int, dice: random.Random) -> float:
    """Seconds until the workers have taken so many jobs (of the client): each takes one as soon as it is free."""
    free = [dice.uniform(0, 2 * S_PER_MP) for _ in range(WORKERS)]  # they are in the middle of something
    heapq.heapify(free)
    while True:
        moment = heapq.heappop(free)
        [leased] = await queue.lease(["m"], "w", 1)
        count -= client in (None, leased.job.client)
        if not count:
            return moment
        heapq.heappush(free, moment + leased.job.cost * S_PER_MP)


async def fill(queue: Queue, client: str, count: int, weight: float, largest: float, dice: random.Random) -> None:
    for _ in range(count):
        await queue.submit(job(uuid4().hex, client=client, weight=weight, cost=dice.uniform(0.5, largest)))


async def test_of_a_full_line_retry_after_is_the_truth(served: Queue) -> None:
    dice = random.Random(1)
    await fill(served, "a", 300, 1, 4, dice)
    await fill(served, "b", 200, 2, 8, dice)
    error = await refused(served, Limits(max_waiting=500))
    assert error.retry_after_s == pytest.approx(await until_taken(served, None, 50, dice), rel=0.3)


async def test_of_a_clients_share_retry_after_is_the_truth(served: Queue) -> None:
    dice = random.Random(2)
    await fill(served, "a", 300, 1, 4, dice)
    await fill(served, "b", 200, 2, 8, dice)
    error = await refused(served, Limits(max_client_waiting=300), client="a")
    assert error.retry_after_s == pytest.approx(await until_taken(served, "a", 30, dice), rel=0.3)


async def test_a_server_that_is_full_takes_no_more_but_brings_to_an_end_what_it_has(state: Path) -> None:
    with EmbeddedServer(state) as server:
        async with Queue(server.url, result_ttl_s=60) as queue, Redis.from_url(server.url) as raw:
            for name in ("finished", "again", "cancelled"):
                await queue.submit(job(name))
            await raw.config_set("maxmemory", "1")
            with pytest.raises(Unavailable):
                await queue.submit(job("more"))
            await queue.register("w", [VARIANT], 60)
            assert len(await queue.lease(["m"], "w", 2)) == 2
            assert await queue.renew({"finished": 1}) == {"finished"}
            assert await queue.progress("finished", 1, 1, 2)
            assert await queue.release("again", 1)
            assert await queue.cancel("cancelled") is JobState.CANCELLED
            assert await queue.finish("finished", 1, RESULT)
            await queue.reclaim()
            await raw.config_set("maxmemory", "0")
            assert (await queue.submit(job("more"))).position == 1
