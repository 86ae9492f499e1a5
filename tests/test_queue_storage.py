"""What the queue stands on: a server of its own in a state folder, and the files beside it."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from service.errors import JobNotFound, Unavailable
from service.job import JobState
from service.queue.blobs import BlobStore, input_key, result_key
from service.queue.embedded import EmbeddedServer, socket_url
from service.queue.queue import Queue
from service.queue.sweep import sweep
from service.settings import Settings
from tests.jobs import job


async def test_without_a_server_it_says_unavailable(state: Path) -> None:
    async with Queue(socket_url(state)) as queue:
        with pytest.raises(Unavailable, match="does not answer"):
            await queue.fleet()


def test_a_state_folder_has_one_server(state: Path) -> None:
    with EmbeddedServer(state), pytest.raises(Unavailable, match="Another `omgsr serve`"):
        EmbeddedServer(state).start()
    with EmbeddedServer(state) as again:  # the folder is free again, the socket of before no hindrance
        assert again.socket.exists()


def test_a_state_folder_is_for_its_owner_alone(state: Path) -> None:
    made, found = state / "made", state / "found"
    found.mkdir(mode=0o755)
    for folder in (made, found):
        with EmbeddedServer(folder):
            assert [each.stat().st_mode & 0o777 for each in (folder, folder / "queue")] == [0o700, 0o700]


async def test_a_state_folder_may_have_any_name(state: Path) -> None:
    settings = Settings(state_dir=state / "a b#c?d%20e")
    with EmbeddedServer(settings.state_dir):
        async with Queue.of(settings) as queue:
            await queue.fleet()
        BlobStore(settings.blobs).put(input_key("a"), b"one")
    assert (settings.state_dir / "blobs" / "a" / "input").read_bytes() == b"one"
    assert [path.name for path in state.iterdir()] == [settings.state_dir.name]


async def test_what_was_accepted_outlives_the_server(state: Path) -> None:
    with EmbeddedServer(state, fsync="always") as server:
        assert server.process
        async with Queue(server.url) as queue:
            await queue.submit(job("a"))
            server.process.kill()
            server.process.wait()
            waiting = asyncio.create_task(queue.wait("a"))
            await asyncio.to_thread(server.start)
            assert (await queue.status("a")).position == 0
            await queue.cancel("a")
            assert (await waiting).state is JobState.CANCELLED


def test_blobs_are_whole_or_not_there(state: Path) -> None:
    blobs = BlobStore(str(state / "blobs"))
    blobs.put(input_key("a"), b"one")
    blobs.put(result_key("a", 1), b"two")
    blobs.put(result_key("a", 1), b"three")
    assert blobs.get(result_key("a", 1)) == b"three"
    assert sorted(path.name for path in (state / "blobs" / "a").iterdir()) == ["input", "result-1"]
    assert (blobs.jobs(older_than_s=-1), blobs.jobs(older_than_s=60)) == ({"a"}, set())
    blobs.delete("a")
    blobs.delete("a")
    assert not (state / "blobs" / "a").exists()
    with pytest.raises(JobNotFound, match="kept no more"):
        blobs.get(input_key("a"))


async def test_files_of_no_job_are_swept_when_they_are_old(queue: Queue, state: Path) -> None:
    blobs = BlobStore(str(state / "blobs"))
    for name in ("kept", "orphan"):
        blobs.put(input_key(name), b"one")
    await queue.submit(job("kept"))
    assert await sweep(blobs, queue, older_than_s=-1) == 1
    assert blobs.jobs(older_than_s=-1) == {"kept"}
    blobs.put(input_key("another"), b"one")
    assert await sweep(blobs, queue, older_than_s=-1) == 0  # the store was looked through a moment ago


async def test_young_files_wait_for_their_job(queue: Queue, state: Path) -> None:
    blobs = BlobStore(str(state / "blobs"))
    blobs.put(input_key("on its way"), b"one")
    assert await sweep(blobs, queue, older_than_s=60) == 0
    assert blobs.jobs(older_than_s=-1) == {"on its way"}


async def test_files_go_when_their_job_is_known_no_more(valkey: str, state: Path) -> None:
    blobs = BlobStore(str(state / "blobs"))
    async with Queue(valkey, namespace=uuid4().hex, result_ttl_s=0.05) as queue:
        names = [str(number) for number in range(250)]
        for name in names:
            blobs.put(input_key(name), b"one")
            await queue.submit(job(name, size=3))
        for name in names:
            await queue.cancel(name)
        async with asyncio.timeout(10):
            while await queue.exists(names):
                await asyncio.sleep(0.01)
        counts = await asyncio.gather(*(sweep(blobs, queue, older_than_s=60) for _ in range(4)))
        assert sum(counts) >= 250
        assert blobs.jobs(older_than_s=-1) == set()
        assert (await queue.fleet()).stored_bytes == 0
