"""Who is next: priority, then clients in turn by megapixels and weights, then arrival."""

from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from service.job import JobState
from service.queue.queue import Queue
from tests.jobs import PROBLEM, job

FLOOD = 1000


async def flood(queue: Queue, count: int, *, client: str = "flood", model: str = "m", priority: int = 0) -> None:
    for _ in range(count):
        await queue.submit(job(uuid4().hex, client=client, model=model, priority=priority))


async def taken(queue: Queue, count: int, *models: str) -> list[str]:
    """The clients of the jobs that are taken next."""
    leased = [one for _ in range(count) for one in await queue.lease(models or ["m"], "w", 1)]
    return [each.job.client for each in leased]


async def test_a_flood_delays_no_other_client(queue: Queue) -> None:
    await flood(queue, FLOOD)
    await queue.lease(["m"], "w", 16)
    assert (await queue.submit(job("one", client="calm"))).position == 0
    assert await taken(queue, 1) == ["calm"]
    for number in range(3):  # nor the next ones, as long as it takes no more than its turn
        receipt = await queue.submit(job(f"next {number}", client="calm"))
        assert receipt.position <= 1
        assert "calm" in await taken(queue, 2)


async def test_a_worker_may_ask_for_the_jobs_of_those_it_has_none_of(queue: Queue) -> None:
    await flood(queue, 5, client="a")
    await flood(queue, 5, client="b")
    await queue.lease(["m"], "w", 2)
    assert await queue.lease(["m"], "w", 9, but=["a", "b"]) == []
    await queue.submit(job("one", client="calm"))
    leased = await queue.lease(["m"], "w", 9, but=["a", "b"])
    assert [each.job.client for each in leased] == ["calm"]


async def test_who_was_quiet_for_long_has_saved_nothing_up(queue: Queue) -> None:
    await flood(queue, 50, client="a")
    await taken(queue, 40)
    await flood(queue, 10, client="b")
    assert set(await taken(queue, 4)) == {"a", "b"}


async def test_equal_clients_take_turns_and_each_ones_jobs_go_by_arrival(queue: Queue) -> None:
    for client in ("a", "b", "c"):
        for number in range(3):
            await queue.submit(job(f"{client}{number}", client=client))
    leased = await queue.lease(["m"], "w", 9)
    assert [each.job.id for each in leased] == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


@settings(max_examples=20, deadline=None)
@given(
    costs=st.tuples(*(st.lists(st.floats(0.01, 20), min_size=30, max_size=30) for _ in range(2))),
    weights=st.tuples(*(st.floats(0.1, 10) for _ in range(2))),
)
def test_clients_who_always_have_jobs_get_megapixels_by_their_weights(
    valkey: str, costs: tuple[list[float], list[float]], weights: tuple[float, float]
) -> None:
    import asyncio

    async def run() -> None:
        async with Queue(valkey, namespace=uuid4().hex, lease_s=60) as queue:
            for turn in range(30):
                for client, (cost, weight) in enumerate(zip((costs[0][turn], costs[1][turn]), weights, strict=True)):
                    made = job(f"{client} {turn}", client=str(client), cost=cost, weight=weight)
                    await queue.submit(made)
            served, left = [0.0, 0.0], [30, 30]
            most = max(costs[0]) / weights[0] + max(costs[1]) / weights[1]
            while all(left):
                [leased] = await queue.lease(["m"], "w", 1)
                client = int(leased.job.client)
                served[client] += leased.job.cost / weights[client]
                left[client] -= 1
                assert abs(served[0] - served[1]) <= most + 1e-4

    asyncio.run(run())


async def test_a_higher_priority_goes_first_and_does_not_move_the_turns_of_a_lower_one(queue: Queue) -> None:
    await flood(queue, 20, client="low", priority=-5)
    await flood(queue, 30, client="high", priority=5)
    assert set(await taken(queue, 30)) == {"high"}
    await queue.submit(job("late", client="calm", priority=-5))
    assert await taken(queue, 2) == ["low", "calm"]


async def test_lines_that_one_worker_serves_share_their_turns(queue: Queue) -> None:
    await flood(queue, 50, model="m")
    await taken(queue, 20, "m", "n")
    await flood(queue, 50, model="n")  # the same client, of the other model: it queues up behind itself
    await queue.submit(job("one", client="calm", model="n"))
    assert await taken(queue, 1, "m", "n") == ["calm"]
    await queue.submit(job("two", client="quiet", model="m"))
    assert "quiet" in await taken(queue, 2, "m", "n")


async def test_lines_of_different_workers_do_not_hold_each_other_up(queue: Queue) -> None:
    await flood(queue, 30, model="m")
    await taken(queue, 2, "m")
    await flood(queue, 30, client="elsewhere", model="n")
    await taken(queue, 25, "n")
    await queue.submit(job("one", client="calm"))
    assert "calm" in await taken(queue, 2, "m")


async def test_what_a_cancelled_job_would_have_had_its_client_has_still(queue: Queue) -> None:
    await flood(queue, 20, client="other")
    for number in range(10):
        await queue.submit(job(f"unwanted {number}", client="mine"))
    for number in range(10):
        await queue.cancel(f"unwanted {number}")
    assert (await queue.submit(job("wanted", client="mine"))).position <= 1


async def test_a_job_that_comes_back_finds_its_place(queue: Queue) -> None:
    await flood(queue, 5, client="other")
    for name in ("first", "second"):
        await queue.submit(job(name, client="mine"))
    leased = await queue.lease(["m"], "w", 4)
    assert "first" in [each.job.id for each in leased]
    await queue.submit(job("third", client="new"))
    assert await queue.fail("first", 1, PROBLEM, retry=True) is JobState.QUEUED
    assert (await queue.status("first")).position == 0


async def test_a_job_that_comes_back_to_an_idle_line_goes_before_all_that_came_later(queue: Queue) -> None:
    await flood(queue, 20, client="mine")
    leased = await queue.lease(["m"], "w", 20)
    last = leased[-1]
    await flood(queue, 5, client="new")
    await queue.release(last.job.id, last.attempt)
    assert (await queue.status(last.job.id)).position == 0


async def test_a_job_that_had_its_turn_gives_none_back(queue: Queue) -> None:
    for client in ("mine", "twin"):
        for number in range(3):
            await queue.submit(job(f"{client} {number}", client=client))
    await flood(queue, 20, client="other")
    leased = await queue.lease(["m"], "w", 2)
    assert [each.job.id for each in leased] == ["mine 0", "twin 0"]
    await queue.release("mine 0", 1)
    for name in ("mine 0", "twin 0"):
        await queue.cancel(name)
    mine = await queue.submit(job("mine 3", client="mine"))
    assert (await queue.submit(job("twin 3", client="twin"))).position == mine.position + 1
