"""The queue's promises, on a real server."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from service.errors import JobNotFound
from service.job import JobState, Leased, VariantInfo
from service.queue.blobs import BlobStore, input_key
from service.queue.limits import Limits
from service.queue.queue import Queue
from service.queue.sweep import sweep
from tests.jobs import PROBLEM, RESULT, job

VARIANT = VariantInfo(
    name="m", family="sd", base="b", mid_timestep=1, native_size=64, process_size=64, license="MIT", color_fix="adain"
)


def ids(leased: list[Leased]) -> list[str]:
    return [each.job.id for each in leased]


async def reclaimed(queue: Queue, count: int) -> None:
    """Return when the queue's own clock has let so many leases run out."""
    async with asyncio.timeout(10):
        while count > 0:
            done = await queue.reclaim()
            count -= done.requeued + done.dead
            await asyncio.sleep(0.01)


async def test_priority_goes_first_then_the_order_of_arrival_over_all_variants(queue: Queue) -> None:
    await queue.submit(job("a"))
    await queue.submit(job("b", model="n"))
    await queue.submit(job("c"))
    assert (await queue.submit(job("urgent", priority=10))).position == 0
    assert (await queue.submit(job("idle", priority=-10))).position == 3
    assert (await queue.status("c")).position == 2
    assert ids(await queue.lease(["m", "n"], "w", 3)) == ["urgent", "a", "b"]
    assert (await queue.status("c")).position == 0
    assert ids(await queue.lease(["m"], "w", 9)) == ["c", "idle"]
    assert await queue.lease(["m", "n"], "w", 9) == []


async def test_submitting_twice_is_submitting_once(queue: Queue) -> None:
    await queue.submit(job("first"))
    assert (await queue.submit(job("a"))).position == 1
    assert (await queue.submit(job("a"))).position == 1
    await queue.register("w", [VARIANT], 9)
    assert (await queue.fleet()).depth == {"m": 2}
    assert len([event async for event in until_queued(queue, "a")]) == 1


async def until_queued(queue: Queue, name: str):
    await queue.cancel(name)
    async for event in queue.events(name):
        if event.kind == "queued":
            yield event


async def test_a_lease_whose_answer_was_lost_gives_the_same_jobs_again(queue: Queue) -> None:
    for name in "abc":
        await queue.submit(job(name))
    call = ("lease", "token", "w", 60, 2, 60, "", 0, "m")
    first, again = await queue._run(*call), await queue._run(*call)
    assert [each[:2] for each in first] == [each[:2] for each in again]
    assert ids(await queue.lease(["m"], "w", 9)) == ["c"]


async def test_only_the_attempt_that_holds_a_job_can_change_it(queue: Queue) -> None:
    await queue.submit(job("a"))
    [old] = await queue.lease(["m"], "slow", 1)
    await reclaimed(queue, 1)
    for attempt_held in (False, True):  # while it waits, and while another worker has it
        if attempt_held:
            [new] = await queue.lease(["m"], "quick", 1)
            assert new.attempt == old.attempt + 1
        assert not await queue.finish("a", old.attempt, RESULT)
        assert not await queue.progress("a", old.attempt, 1, 2)
        assert await queue.renew({"a": old.attempt}) == set()
    assert not await queue.fail("a", old.attempt, PROBLEM, retry=True)
    assert not await queue.release("a", old.attempt)
    assert await queue.progress("a", new.attempt, 1, 2)
    assert await queue.finish("a", new.attempt, RESULT)
    assert await queue.finish("a", new.attempt, RESULT)  # a retry is told the same
    assert not await queue.fail("a", new.attempt, PROBLEM, retry=False)
    status = await queue.status("a")
    assert (status.state, status.result, status.attempt) == (JobState.SUCCEEDED, RESULT, 2)


async def test_a_silent_workers_job_goes_back_to_its_old_place(queue: Queue) -> None:
    for name in "ab":
        await queue.submit(job(name))
    await queue.lease(["m"], "silent", 1)
    await reclaimed(queue, 1)
    status = await queue.status("a")
    assert (status.state, status.position, status.started_at) == (JobState.QUEUED, 0, None)
    assert ids(await queue.lease(["m"], "w", 2)) == ["a", "b"]


async def test_a_renewed_lease_is_kept(valkey: str) -> None:
    namespace = uuid4().hex
    async with (
        Queue(valkey, namespace=namespace, lease_s=2) as queue,
        Queue(valkey, namespace=namespace, lease_s=60) as patient,
    ):
        await queue.submit(job("kept"))
        await queue.submit(job("lost"))
        kept, _ = await queue.lease(["m"], "w", 2)
        assert await patient.renew({"kept": kept.attempt}) == {"kept"}
        await reclaimed(queue, 1)
        assert (await queue.status("kept")).state is JobState.RUNNING
        assert (await queue.status("lost")).state is JobState.QUEUED


async def test_after_the_last_attempt_the_job_has_failed_and_says_so(queue: Queue) -> None:
    await queue.submit(job("poison"))
    for attempt in (1, 2, 3):
        assert (await queue.lease(["m"], "w", 1))[0].attempt == attempt
        await reclaimed(queue, 1)
    status = await queue.status("poison")
    assert status.state is JobState.FAILED
    assert status.error
    assert "3 times" in status.error.detail
    assert await queue.lease(["m"], "w", 1) == []


async def test_failing_with_and_without_retry(queue: Queue) -> None:
    await queue.submit(job("a"))
    for attempt in (1, 2, 3):
        await queue.lease(["m"], "w", 1)
        assert await queue.fail("a", attempt, PROBLEM, retry=True)
        assert await queue.fail("a", attempt, PROBLEM, retry=True)  # its retry changes nothing more
    assert (await queue.status("a")).error == PROBLEM
    await queue.submit(job("b"))
    await queue.lease(["m"], "w", 1)
    assert await queue.fail("b", 1, PROBLEM, retry=False)
    assert (await queue.status("b")).state is JobState.FAILED


async def test_giving_a_job_back_costs_no_attempt(queue: Queue) -> None:
    await queue.submit(job("a"))
    for attempt in range(1, 7):
        [leased] = await queue.lease(["m"], "w", 1)
        assert leased.attempt == attempt  # the fence never repeats
        assert await queue.release("a", attempt)
        assert await queue.release("a", attempt)
    for attempt in (7, 8, 9):  # the three that count
        assert (await queue.status("a")).state is JobState.QUEUED
        await queue.lease(["m"], "w", 1)
        assert await queue.fail("a", attempt, PROBLEM, retry=True)
    assert (await queue.status("a")).state is JobState.FAILED


async def test_cancel_waiting_running_and_done(queue: Queue) -> None:
    for name in "ab":
        await queue.submit(job(name))
    [running] = await queue.lease(["m"], "w", 1)
    assert await queue.cancel("b") is JobState.CANCELLED
    assert await queue.cancel("a") is JobState.CANCELLED
    assert await queue.renew({"a": running.attempt}) == set()
    assert not await queue.finish("a", running.attempt, RESULT)
    assert await queue.cancel("a") is JobState.CANCELLED
    assert await queue.lease(["m"], "w", 9) == []
    with pytest.raises(JobNotFound):
        await queue.cancel("nobody")


async def test_events_tell_the_whole_story_and_go_on_after_any_of_them(queue: Queue) -> None:
    await queue.submit(job("a"))
    watching = asyncio.create_task(collect(queue, "a", "0"))
    await queue.lease(["m"], "w", 1)
    await queue.progress("a", 1, 3, 9)
    await queue.finish("a", 1, RESULT)
    events = await watching
    assert [(e.kind, e.tiles_done) for e in events] == [
        ("queued", 0),
        ("progress", 0),
        ("progress", 3),
        ("succeeded", 9),
    ]
    assert await collect(queue, "a", events[1].id) == events[2:]
    assert await collect(queue, "a", events[-1].id) == []
    assert (await queue.wait("a")).state is JobState.SUCCEEDED
    with pytest.raises(JobNotFound):
        await queue.wait("nobody")


async def collect(queue: Queue, name: str, after: str):
    return [event async for event in queue.events(name, after)]


async def test_a_thousand_who_wait_share_one_connection(queue: Queue, valkey: str) -> None:
    names = [f"job {number}" for number in range(1000)]
    await asyncio.gather(*(queue.submit(job(name)) for name in names))
    waiting = [asyncio.create_task(queue.wait(name)) for name in names]
    await asyncio.gather(*(queue.status(name) for name in names))  # behind the waiters' own first look
    for name in names:
        await queue.cancel(name)
    assert {status.state for status in await asyncio.gather(*waiting)} == {JobState.CANCELLED}
    async with Redis.from_url(valkey) as raw:
        assert len(await raw.client_list()) < 100


async def test_an_idle_worker_hears_of_a_new_job(queue: Queue) -> None:
    hearing = asyncio.create_task(queue.arrival("0"))
    await queue.submit(job("a"))
    heard = await hearing
    assert heard != "0"
    assert await queue.arrival(heard) == heard


async def test_workers_and_variants_come_and_go(queue: Queue) -> None:
    other = VARIANT.model_copy(update={"name": "a"})
    await queue.register("w", [VARIANT, other], 9)
    await queue.register("v", [VARIANT], 9)
    assert await queue.workers_alive() == 2
    assert list(await queue.variants()) == ["a", "m"]
    await queue.register("w", [VARIANT, other], 0)
    assert await queue.workers_alive() == 1
    assert await queue.variants() == {"m": VARIANT}  # the one that went served the other alone


async def test_a_variant_whose_worker_died_is_known_but_comes_last(queue: Queue) -> None:
    await queue.register("dead", [VARIANT.model_copy(update={"name": "a"})], 0.01)
    async with asyncio.timeout(10):
        while await queue.workers_alive():
            pass
    assert list(await queue.variants()) == ["a"]  # a replacement may come
    await queue.register("w", [VARIANT], 9)
    assert list(await queue.variants()) == ["m", "a"]


async def test_a_job_does_not_wait_for_ever_for_a_variant_that_is_no_more(valkey: str) -> None:
    namespace = uuid4().hex
    async with (
        Queue(valkey, namespace=namespace, variants_known_s=0.1) as queue,
        Queue(valkey, namespace=namespace) as patient,
    ):
        await queue.register("gone", [VARIANT], 0)
        await patient.register("w", [VARIANT.model_copy(update={"name": "n"})], 9)
        for name, model in (("a", "m"), ("b", "n")):
            await queue.submit(job(name, model=model))
        async with asyncio.timeout(10):
            while (status := await queue.status("a")).state is JobState.QUEUED:
                await queue.reclaim()
        assert status.state is JobState.FAILED
        assert status.error
        assert "served no more" in status.error.detail
        assert (await queue.status("b")).state is JobState.QUEUED


async def test_jobs_that_ended_leave_nothing_behind(valkey: str, state: Path) -> None:
    namespace, blobs = uuid4().hex, BlobStore(str(state / "blobs"))
    terms = {"namespace": namespace, "lease_s": 0.05, "result_ttl_s": 0.05, "dead_ttl_s": 0.05}
    async with Queue(valkey, **terms) as queue, Redis.from_url(valkey, decode_responses=True) as raw:
        for name in ("done", "failed", "dead", "cancelled"):
            blobs.put(input_key(name), b"one")
            await queue.submit(job(name, client=name, key=name, attended=True, deadline_s=9), Limits(per_minute=60_000))
        await queue.lease(["m"], "w", 3)
        await queue.finish("done", 1, RESULT)
        await queue.fail("failed", 1, PROBLEM)
        await queue.fail("dead", 1, PROBLEM, dead=True)
        await queue.cancel("cancelled")
        for _ in range(500):
            await sweep(blobs, queue, older_than_s=60)
            await queue.reclaim()
            keys = {key.partition("}:")[2] async for key in raw.scan_iter(f"*{namespace}*", count=1000)}
            left = keys - {"totals", "vtime", "learned", "arrivals", "ended", "listing"}
            if not left:
                break
            await asyncio.sleep(0.01)
        assert not left
        assert (await queue.fleet()).stored_bytes == 0
    assert not list((state / "blobs").rglob("*/*"))


async def test_a_crowd_of_callers_waits_for_connections_instead_of_being_refused(queue: Queue) -> None:
    await queue.submit(job("a"))
    told = await asyncio.gather(*(queue.status("a") for _ in range(500)))
    assert {status.state for status in told} == {JobState.QUEUED}
