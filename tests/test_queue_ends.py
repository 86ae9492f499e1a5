"""How jobs end but by their worker: by a deadline, unasked for, as dead letters; and what a key stands for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from service.errors import DeadlinePassed, JobNotFound, KeyReused
from service.job import JobState, VariantInfo
from service.queue.blobs import BlobStore, input_key, result_key
from service.queue.queue import Queue
from service.queue.sweep import sweep
from service.queue.workers import Reclaimed
from tests.jobs import PROBLEM, RESULT, job

NOW = 1e-6
"""Seconds: a deadline that has passed when the next call comes."""


@pytest.fixture
def blobs(state: Path) -> BlobStore:
    return BlobStore(str(state / "blobs"))


@pytest.fixture
async def steady(valkey: str) -> AsyncIterator[Queue]:
    """A queue whose leases do not run out."""
    async with Queue(valkey, namespace=uuid4().hex, lease_s=60) as made:
        yield made


async def test_a_job_past_its_deadline_fails_before_it_costs_device_time(steady: Queue) -> None:
    await steady.submit(job("late", deadline_s=NOW))
    await steady.submit(job("in time", deadline_s=3600))
    assert [each.job.id for each in await steady.lease(["m"], "w", 2)] == ["in time"]
    status = await steady.status("late")
    assert (status.state, status.attempt, status.started_at) == (JobState.FAILED, 0, None)
    assert status.error
    assert (status.error.type, status.error.status) == ("urn:omgsr:problem:deadline-passed", DeadlinePassed.status)
    assert await steady.dead_letters() == []


async def test_deadlines_end_jobs_that_wait_and_jobs_that_run(steady: Queue) -> None:
    await steady.submit(job("waits", deadline_s=NOW, model="served by nobody"))
    await steady.submit(job("runs", deadline_s=0.3))
    [leased] = await steady.lease(["m"], "w", 1)
    expired = 0
    with steady.watch_called_off("runs") as ended:
        async with asyncio.timeout(10):
            while not ended.is_set():
                expired += (await steady.reclaim()).expired
                await asyncio.sleep(0.01)
    assert expired == 2
    assert not await steady.finish("runs", leased.attempt, RESULT)
    assert {(await steady.status(name)).state for name in ("waits", "runs")} == {JobState.FAILED}


async def test_a_job_that_nobody_asks_for_is_dropped(steady: Queue) -> None:
    for name in ("waits", "runs"):
        await steady.submit(job(name, attended=True))
    await steady.submit(job("by itself"))
    await steady.lease(["m"], "w", 1)
    await steady.attend(["waits", "runs", "by itself"], 60)
    assert await steady.reclaim() == Reclaimed()
    await steady.attend(["waits", "runs", "by itself"], -1)
    assert await steady.reclaim() == Reclaimed(abandoned=2)
    assert (await steady.status("waits")).state is JobState.CANCELLED
    assert (await steady.status("by itself")).state is JobState.QUEUED
    await steady.attend(["waits"], 60)  # too late
    assert (await steady.status("waits")).state is JobState.CANCELLED


async def test_after_an_outage_everybody_gets_the_time_to_ask_again(valkey: str) -> None:
    namespace = uuid4().hex
    async with Queue(valkey, namespace=namespace, attend_s=0.5) as queue, Redis.from_url(valkey) as raw:
        await queue.submit(job("a", attended=True))
        await queue.reclaim()
        await queue.attend(["a"], -1)
        await raw.hincrbyfloat(f"{{{namespace}}}:totals", "judged_at", -60)  # as if nobody had looked for a minute
        assert (await queue.reclaim()).abandoned == 0
        async with asyncio.timeout(10):
            while not (await queue.reclaim()).abandoned:
                await asyncio.sleep(0.05)


async def test_a_key_joins_the_job_that_it_belongs_to(steady: Queue) -> None:
    assert await steady.joined("me", "k", "d") is None
    await steady.submit(job("other"))
    first = await steady.submit(job("a", client="me", key="k", digest="d"))
    again = await steady.submit(job("b", client="me", key="k", digest="d"))
    assert (first.joined, again.joined, again.job_id) == (False, True, "a")
    assert await steady.joined("me", "k", "d") == again
    for call in (steady.joined("me", "k", "other"), steady.submit(job("c", client="me", key="k", digest="other"))):
        with pytest.raises(KeyReused):
            await call
    assert await steady.joined("you", "k", "other") is None
    assert await steady.exists(["b", "c"]) == set()


async def test_a_key_stays_with_a_success_and_is_free_after_a_failure(steady: Queue) -> None:
    for name in ("good", "bad", "unwanted"):
        await steady.submit(job(name, key=name))
    await steady.lease(["m"], "w", 2)
    await steady.finish("good", 1, RESULT)
    await steady.fail("bad", 1, PROBLEM)
    await steady.cancel("unwanted")
    assert (await steady.submit(job("good again", key="good"))).job_id == "good"
    assert (await steady.submit(job("bad again", key="bad", digest="new"))).job_id == "bad again"
    assert (await steady.submit(job("wanted", key="unwanted"))).job_id == "wanted"


async def die(queue: Queue, blobs: BlobStore, name: str, **told) -> None:
    blobs.put(input_key(name), b"the photo")
    await queue.submit(job(name, **told))
    [leased] = await queue.lease(["m"], "w", 1)
    blobs.put(result_key(name, 1), b"half a result")
    assert await queue.fail(name, leased.attempt, PROBLEM, dead=True) is JobState.FAILED


async def test_jobs_are_given_up_when_out_of_deliveries_or_by_our_fault_alone(queue: Queue, blobs: BlobStore) -> None:
    await die(queue, blobs, "ours")
    await queue.submit(job("theirs"))
    await queue.lease(["m"], "w", 1)
    await queue.fail("theirs", 1, PROBLEM)
    await queue.submit(job("deadly"))
    done = Reclaimed()
    for _ in range(queue.max_attempts):
        await queue.lease(["m"], "w", 1)
        async with asyncio.timeout(10):
            while not (done := await queue.reclaim()).requeued + done.dead:
                await asyncio.sleep(0.01)
    assert (done.requeued, done.dead) == (0, 1)
    assert [(letter.job.id, letter.state) for letter in await queue.dead_letters()] == [
        ("ours", JobState.FAILED),
        ("deadly", JobState.FAILED),
    ]
    assert (await queue.fleet()).dead == 2


async def test_a_replayed_letter_is_a_new_job_with_a_file_of_its_own(steady: Queue, blobs: BlobStore) -> None:
    await die(steady, blobs, "a", key="k", attended=True, deadline_s=3600, client="me", priority=3)
    new_id = await steady.replay("a", blobs)
    assert await steady.dead_letters() == []
    with pytest.raises(JobNotFound):
        await steady.status("a")
    await sweep(blobs, steady, older_than_s=60)
    assert blobs.jobs(older_than_s=-1) == {new_id}
    assert (await steady.fleet()).stored_bytes == (await steady.status(new_id)).job.bytes
    [leased] = await steady.lease(["m"], "w", 1)
    told = leased.job
    assert blobs.get(told.input_key) == b"the photo"
    assert (told.id, told.client, told.options.priority) == (new_id, "me", 3)
    assert (told.idempotency_key, told.attended, told.options.deadline_s) == ("", False, None)


async def test_two_who_replay_one_letter_make_one_job(steady: Queue, blobs: BlobStore) -> None:
    await die(steady, blobs, "a")
    answers = await asyncio.gather(*(steady.replay("a", blobs) for _ in range(5)), return_exceptions=True)
    [new_id] = [answer for answer in answers if isinstance(answer, str)]
    assert all(isinstance(answer, str | JobNotFound) for answer in answers)
    await sweep(blobs, steady, older_than_s=60)
    assert blobs.jobs(older_than_s=-1) == {new_id}


async def test_letters_are_kept_for_their_own_time(valkey: str, blobs: BlobStore) -> None:
    async with Queue(valkey, namespace=uuid4().hex, result_ttl_s=0.01, dead_ttl_s=60) as queue:
        await die(queue, blobs, "dead")
        await die(queue, blobs, "buried")
        await queue.bury("buried")
        async with asyncio.timeout(10):
            while not await sweep(blobs, queue, older_than_s=60):
                await asyncio.sleep(0.01)
        await queue.reclaim()
        assert [letter.job.id for letter in await queue.dead_letters()] == ["dead"]
        assert blobs.jobs(older_than_s=-1) == {"dead"}


async def test_a_worker_is_told_of_jobs_that_are_called_off_and_of_no_others(steady: Queue) -> None:
    for name in ("done", "off", "waits"):
        await steady.submit(job(name))
    await steady.lease(["m"], "w", 2)
    with steady.watch_called_off("done") as done, steady.watch_called_off("off") as off:
        await steady.finish("done", 1, RESULT)
        await steady.cancel("waits")
        await steady.cancel("off")
        async with asyncio.timeout(10):
            await off.wait()
        assert not done.is_set()


async def test_the_queue_learns_what_a_megapixel_takes_and_says_when_a_job_will_end(steady: Queue) -> None:
    variant = VariantInfo.model_validate(
        {"name": "m", "family": "sd", "base": "b", "mid_timestep": 1, "native_size": 64, "process_size": 64}
        | {"license": "MIT", "color_fix": "adain"}
    )
    for worker in ("v", "w"):
        await steady.register(worker, [variant], 60)
    for name in "abc":
        await steady.submit(job(name, cost=3))
    assert (await steady.status("a")).eta_s is None
    await steady.calibrate("m", 2)
    await steady.calibrate("m", 9)  # something is known already
    assert [(await steady.status(name)).eta_s for name in "abc"] == [6, 9, 12]  # two workers, then its own 6 s
    fleet = await steady.fleet()
    assert (fleet.backlog_s, fleet.variants["m"].seconds_per_megapixel) == ({"m": 18}, 2)
    await steady.lease(["m"], "w", 1)
    await steady.progress("a", 1, 3, 4)
    assert (await steady.status("a")).eta_s == 1.5
    for number in range(100):
        await steady.submit(job(str(number), cost=3, client="new"))
        [leased] = await steady.lease(["m"], "w", 1)
        seconds = {"decode_file": 99, "encode": 1, "predict": 1, "decode": 1}
        await steady.finish(leased.job.id, 1, RESULT.model_copy(update={"seconds": seconds}))
    assert (await steady.variants())["m"].seconds_per_megapixel == pytest.approx(1, rel=0.01)
