"""What an earlier release left in the queue this one goes on with: nothing is lost by an upgrade."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from service.job import JobState
from service.queue.blobs import BlobStore, input_key
from service.queue.queue import Queue
from tests.jobs import RESULT
from tests.queue_format import FILE, Dump, dump, fill, queue_of, restore, shape

LEFT: Dump = json.loads(FILE.read_text())


@pytest.fixture
async def server(valkey: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey, decode_responses=True) as made:
        yield made


@pytest.fixture
async def left(valkey: str, server: Redis) -> AsyncIterator[Queue]:
    """A queue as format 1's first release left it."""
    namespace = uuid4().hex
    await restore(server, namespace, LEFT)
    async with queue_of(valkey, namespace) as queue:
        yield queue


async def test_jobs_that_were_left_waiting_and_running_come_to_their_ends(left: Queue) -> None:
    assert [each.job.id for each in await left.active()] == ["runs", "waits", "late"]
    assert (await left.fleet()).depth == {"m": 2}
    [leased] = await left.lease(["m"], "w", 9)
    assert (leased.job.id, leased.attempt) == ("waits", 1)
    assert (await left.status("late")).state is JobState.FAILED
    assert await left.progress("runs", 1, 2, 4)
    assert await left.finish("runs", 1, RESULT)  # by the worker of the earlier release, still there
    assert await left.finish("waits", 1, RESULT)
    assert (await left.fleet()).depth == {"m": 0}
    story = [(event.kind, event.tiles_done) async for event in left.events("runs")]
    assert story == [("queued", 0), ("progress", 0), ("progress", 1), ("progress", 2), ("succeeded", 4)]


async def test_results_keys_and_dead_letters_are_kept(left: Queue, tmp_path: Path) -> None:
    done = await left.status("done")
    assert (done.state, done.result and done.result.key) == (JobState.SUCCEEDED, RESULT.key)
    joined = await left.joined("me", "key of done", "d")
    assert (joined and joined.job_id) == "done"
    assert await left.joined("me", "key of dead", "d") is None
    assert [letter.job.id for letter in await left.dead_letters()] == ["dead"]
    blobs = BlobStore(str(tmp_path))
    blobs.put(input_key("dead"), b"a photo")
    again = await left.replay("dead", blobs)
    assert (await left.status(again)).state is JobState.QUEUED


async def test_the_format_is_as_it_was_laid_down(valkey: str, server: Redis) -> None:
    namespace = uuid4().hex
    async with queue_of(valkey, namespace) as queue:
        await fill(queue)
    assert shape(await dump(server, namespace)) == shape(LEFT), (
        "What crosses Redis has changed, and processes of the last release read and write it, too: see Upgrading in "
        "docs/operations.md; then `python -m tests.queue_format` lays it down anew."
    )
