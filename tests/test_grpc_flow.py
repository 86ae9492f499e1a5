"""What flows through a stream, and what must not pile up: images at once, slow uploads, slow readers."""

import asyncio
import os
from pathlib import Path

import grpc
import psutil
import pytest
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1.upscale_pb2_grpc import UpscaleServiceStub

from service.job import Result
from service.queue.blobs import result_key
from tests.conversation import Answers, converse, finish, reason, upload
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api
from tests.pictures import photo
from tests.running import running_stub
from tests.soak import times

MIB = 2**20
AT_ONCE = 8


async def test_one_bad_image_among_a_hundred(state: Path):
    with running_stub(state, OMGSR_MAX_BATCH="8") as service:
        images = {f"image {n}": photo(8 + n % 5, 8) for n in range(100)} | {"image 41": b"no image"}
        requests = [request for name, data in images.items() for request in upload(name, data)]
        answers = await converse(service.grpc, requests)
        assert answers.files.keys() == images.keys() - {"image 41"}
        assert answers.failed.keys() == {"image 41"}
        for name, data in answers.files.items():
            assert len(data) == answers.starts[name].total_bytes
            assert answers.starts[name].width == 4 * (8 + int(name.split()[1]) % 5)


async def test_images_end_in_whatever_order(state: Path):
    with lone_api(state) as api:
        async with api.queue() as queue:
            await queue.register("the test", [VARIANT], ttl_s=600)
            requests = [request for n in range(3) for request in upload(str(n), photo(40 + n))]
            waiting = asyncio.create_task(converse(api.grpc, requests))
            leased = sorted([await first_lease(queue) for _ in range(3)], key=lambda each: -each.job.width)
            for each in leased:
                await finish(api, queue, each, f"{each.job.width}".encode())
                await queue.wait(each.job.id)
            answers = await waiting
            assert answers.files == {"0": b"40", "1": b"41", "2": b"42"}


async def test_the_ninth_image_waits_until_one_has_ended(state: Path):
    with lone_api(state) as api:
        async with api.queue() as queue, grpc.aio.insecure_channel(api.grpc) as channel, asyncio.timeout(60):
            await queue.register("the test", [VARIANT], ttl_s=600)
            requests = [request for n in range(AT_ONCE + 1) for request in upload(str(n), photo())]
            call, answers = UpscaleServiceStub(channel).Upscale(iter(requests)), Answers()
            while len(answers.accepted) < AT_ONCE:
                answers.take(await call.read())
            await finish(api, queue, await first_lease(queue), b"made")
            while not answers.ended:
                assert len(answers.accepted) == AT_ONCE
                answers.take(await call.read())
            while len(answers.accepted) <= AT_ONCE:
                answers.take(await call.read())
            call.cancel()


async def test_a_ninth_image_beside_half_sent_ones_is_refused(state: Path):
    with lone_api(state) as api:
        async with api.queue() as queue:
            await queue.register("the test", [VARIANT], ttl_s=600)
            halves = [upload(str(n), photo(), piece=100) for n in range(AT_ONCE + 1)]
            first = [half[0] for half in halves]
            rest = [request for half in halves[:AT_ONCE] for request in half[1:]]
            waiting = asyncio.create_task(converse(api.grpc, [*first, *rest]))
            for _ in range(AT_ONCE):
                await finish(api, queue, await first_lease(queue), b"made")
            answers = await waiting
            assert answers.files.keys() == {str(n) for n in range(AT_ONCE)}
            assert reason(answers.failed[str(AT_ONCE)])[:2] == ("RESOURCE_EXHAUSTED", "TOO_MANY_REQUESTS")


async def test_an_upload_that_comes_to_a_halt_gives_its_place_to_others(state: Path):
    with lone_api(state, OMGSR_SLOW_UPLOAD_S="0.5", OMGSR_MAX_UPLOADS_IN_FLIGHT="1") as api:
        async with api.queue() as queue, grpc.aio.insecure_channel(api.grpc) as channel, asyncio.timeout(60):
            await queue.register("the test", [VARIANT], ttl_s=600)
            call, halted = UpscaleServiceStub(channel).Upscale(), upload("halted", photo(), piece=100)
            for request in halted[:2]:
                await call.write(request)
            assert reason((await call.read()).failed.status)[:2] == ("INVALID_ARGUMENT", "UPLOAD_STALLED")
            for request in (*halted[2:], *upload("next", photo(), piece=100)):
                await call.write(request)
            assert (await call.read()).accepted.image_id == "next"
            call.cancel()


async def test_clients_that_leave_at_any_moment_take_no_place_with_them(state: Path):
    with lone_api(state, OMGSR_MAX_UPLOADS_IN_FLIGHT="1") as api:
        async with api.queue() as queue, grpc.aio.insecure_channel(api.grpc) as channel, asyncio.timeout(60):
            await queue.register("the test", [VARIANT], ttl_s=600)
            stub = UpscaleServiceStub(channel)
            for sent in range(times(300, 40)):
                call = stub.Upscale()
                for request in upload("leaves", photo(), piece=100)[: 2 + sent % 2]:
                    await call.write(request)
                call.cancel()
                small = stub.UpscaleImage(pb.UpscaleImageRequest(data=photo()))
                await asyncio.wait({asyncio.ensure_future(small.initial_metadata())}, timeout=0.002 * (sent % 3))
                small.cancel()
            waiting = asyncio.create_task(converse(api.grpc, upload("stays", photo(9, 9))))
            while (leased := await first_lease(queue)).job.width != 9:
                pass
            await finish(api, queue, leased, b"made")
            assert (await waiting).files == {"stays": b"made"}
            while await queue.active():  # and no job is left that nobody waits for
                await asyncio.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
async def test_a_reader_that_is_slow_does_not_grow_memory(state: Path):
    """Eight images at once, of 1 GB in all (in short: 200 MB), to a client that does not read for a while."""
    size = times(128, 25) * MIB
    with lone_api(state) as api:
        async with api.queue() as queue, grpc.aio.insecure_channel(api.grpc) as channel, asyncio.timeout(120):
            await queue.register("the test", [VARIANT], ttl_s=600)
            requests = [request for n in range(AT_ONCE) for request in upload(str(n), photo())]
            call, answers = UpscaleServiceStub(channel).Upscale(iter(requests)), Answers()
            while len(answers.accepted) < AT_ONCE:
                answers.take(await call.read())
            before, had_read = peak(api.process), api.process.io_counters().read_chars
            for _ in range(AT_ONCE):
                await finish_large(api, queue, size)
            read = await standstill(api.process) - had_read
            assert 0 < read < 64 * MIB, "the server reads on what its client does not"
            left, got = set(map(str, range(AT_ONCE))), dict.fromkeys(map(str, range(AT_ONCE)), 0)
            while left:
                answer = await call.read()
                if answer.HasField("chunk"):
                    got[answer.chunk.image_id] += len(answer.chunk.data)
                    left -= {answer.chunk.image_id} if answer.chunk.last else set()
            assert set(got.values()) == {size}
            assert peak(api.process) - before < 64 * MIB
            call.cancel()


async def finish_large(api: LoneApi, queue, size: int) -> None:
    """A result of zeros; they take no space on the disk."""
    leased = await first_lease(queue)
    key = result_key(leased.job.id, leased.attempt)
    path = Path(api.settings.blobs) / key
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.truncate(path, size)
    made = Result(key=key, mime_type="image/png", width=1, height=1, bytes=size)
    assert await queue.finish(leased.job.id, leased.attempt, made)


def peak(process: psutil.Process) -> int:
    """The most memory that the process ever had, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


async def standstill(process: psutil.Process) -> int:
    """Wait until the process reads no more for a second, and return how many bytes it has read."""
    seen = process.io_counters().read_chars
    quiet = 0
    while quiet < 10:
        await asyncio.sleep(0.1)
        now = process.io_counters().read_chars
        quiet = quiet + 1 if now - seen < MIB else 0
        seen = now
    return seen
