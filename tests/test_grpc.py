"""gRPC over real sockets: images on a stream, each with its own end."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import httpx
import pytest
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1.upscale_pb2_grpc import UpscaleServiceStub
from PIL import Image

from service.job import JobState
from tests.conversation import Answers, converse, reason, upload
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api
from tests.pictures import photo
from tests.problems import check_problem


async def test_an_image_comes_back_upscaled_in_chunks(service):
    data = photo(96, 64)
    answers = await converse(service.grpc, upload("one", data, scale=4.0, format="png", strength=0.0))
    assert not answers.failed
    assert answers.accepted["one"].job_id
    started = answers.starts["one"]
    assert (started.mime_type, started.width, started.height) == ("image/png", 384, 256)
    assert len(answers.files["one"]) == started.total_bytes
    assert Image.open(BytesIO(answers.files["one"])).size == (384, 256)
    assert answers.progress[-1].tiles_total > 0
    assert {p.state for p in answers.progress} <= {"queued", "running"}


async def test_one_image_fails_and_the_stream_lives(service):
    bad = {
        "no image": ({"data": b"hello"}, ("INVALID_ARGUMENT", "NOT_AN_IMAGE")),
        "truncated": ({"data": photo()[:-40]}, ("INVALID_ARGUMENT", "TRUNCATED")),
        "scale": ({"data": photo(), "scale": 99.0}, ("INVALID_ARGUMENT", "BAD_OPTION")),
        "format": ({"data": photo(), "format": "tga"}, ("INVALID_ARGUMENT", "BAD_OPTION")),
        "model": ({"data": photo(), "model": "nonesuch"}, ("NOT_FOUND", "UNKNOWN_MODEL")),
    }
    requests = [r for name, (options, _) in bad.items() for r in upload(name, **options)]
    answers = await converse(service.grpc, [*requests, *upload("good", photo())])
    assert answers.files.keys() == {"good"}
    for name, (_, expected) in bad.items():
        code, why, advice = reason(answers.failed[name])
        assert (code, why) == expected
        assert advice


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    with (
        TemporaryDirectory(prefix="omgsr-") as folder,
        lone_api(Path(folder), OMGSR_MAX_UPLOAD_BYTES="20000") as started,
    ):
        yield started


@pytest.fixture
async def queue(api: LoneApi):
    async with api.queue() as made:
        await made.register("the test", [VARIANT], ttl_s=600)
        yield made


async def test_a_broken_conversation_is_told_image_by_image(api, queue):
    def chunk(image_id: str, data: bytes, last: bool) -> pb.UpscaleRequest:
        return pb.UpscaleRequest(chunk=pb.Chunk(image_id=image_id, data=data, last=last))

    def start(image_id: str, **options) -> pb.UpscaleRequest:
        return pb.UpscaleRequest(start=pb.Start(image_id=image_id, **options))

    answers = await converse(
        api.grpc,
        [
            *(start("declared large", total_bytes=20_001), chunk("declared large", b"x", True)),
            *(start("turns out large"), chunk("turns out large", bytes(20_000), False)),
            *(chunk("turns out large", b"x", False), chunk("turns out large", b"x", True)),
            *(start("lied", total_bytes=7), chunk("lied", b"x", True)),
            *(start("twice"), start("twice")),
            *(start("empty"), chunk("empty", b"", True)),
            chunk("never started", b"x", True),
            pb.UpscaleRequest(cancel=pb.Cancel(image_id="never started")),
            pb.UpscaleRequest(),
            start("never ended"),
        ],
    )
    told = {name: reason(status)[:2] for name, status in answers.failed.items()}
    assert told == {
        "declared large": ("INVALID_ARGUMENT", "TOO_MANY_BYTES"),
        "turns out large": ("INVALID_ARGUMENT", "TOO_MANY_BYTES"),
        "lied": ("INVALID_ARGUMENT", "BAD_REQUEST"),
        "twice": ("INVALID_ARGUMENT", "BAD_REQUEST"),
        "empty": ("INVALID_ARGUMENT", "NOT_AN_IMAGE"),
        "never ended": ("INVALID_ARGUMENT", "BAD_REQUEST"),
    }


async def test_a_message_that_is_too_large_ends_its_call_only(api):
    answers = await converse(api.grpc, upload("large", bytes(2 * 2**20), piece=2 * 2**20))
    assert reason(answers.failed["large"])[:2] == ("INVALID_ARGUMENT", "TOO_MANY_BYTES")  # of its own total_bytes
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await converse(api.grpc, upload("larger", bytes(5 * 2**20), piece=5 * 2**20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not (await converse(api.grpc, [])).failed


async def test_cancel_on_the_stream(api, queue):
    async def requests() -> AsyncIterator[pb.UpscaleRequest]:
        for request in upload("given up", photo()):
            yield request
        leased.append(await first_lease(queue))
        yield pb.UpscaleRequest(cancel=pb.Cancel(image_id="given up"))

    leased = []
    answers = Answers()
    async with grpc.aio.insecure_channel(api.grpc) as channel, asyncio.timeout(60):
        async for answer in UpscaleServiceStub(channel).Upscale(requests()):
            answers.take(answer)
    assert reason(answers.failed["given up"])[0] == "CANCELLED"
    assert (await queue.status(leased[0].job.id)).state is JobState.CANCELLED


async def test_a_cancel_that_comes_while_the_image_is_judged(state: Path):
    with lone_api(state) as api:
        async with api.queue() as queue:
            await queue.register("the test", [VARIANT], ttl_s=600)
            large = upload(
                "hasty", photo(2000, 2000), piece=2**19, scale=1.0
            )  # its decoding takes longer than the rest arrives
            answers = await converse(api.grpc, [*large, pb.UpscaleRequest(cancel=pb.Cancel(image_id="hasty"))])
            assert reason(answers.failed["hasty"])[0] == "CANCELLED"
            assert await queue.active() == []
            late = pb.UpscaleRequest(chunk=pb.Chunk(image_id="hasty", data=b"more", last=True))
            answers = await converse(api.grpc, [*large, late])
            assert reason(answers.failed["hasty"])[:2] == ("INVALID_ARGUMENT", "BAD_REQUEST")
            assert await queue.active() == []


async def test_a_client_that_hangs_up_cancels_its_jobs(api, queue):
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        call = UpscaleServiceStub(channel).Upscale(iter(upload("abandoned", photo())))
        leased = await first_lease(queue)
        call.cancel()
        async with asyncio.timeout(20):
            assert (await queue.wait(leased.job.id)).state is JobState.CANCELLED


async def test_a_client_that_hangs_up_cancels_all_its_images(api, queue):
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        requests = [each for number in range(8) for each in upload(str(number), photo())]
        call = UpscaleServiceStub(channel).Upscale(iter(requests))
        leased = [await first_lease(queue) for _ in range(8)]
        call.cancel()
        async with asyncio.timeout(20):
            ended = [await queue.wait(each.job.id) for each in leased]
    assert {status.state for status in ended} == {JobState.CANCELLED}


async def test_more_uploads_than_memory_is_given_for_are_refused(state: Path):
    with lone_api(state, OMGSR_MAX_UPLOADS_IN_FLIGHT="1") as api:
        async with api.queue() as queue, grpc.aio.insecure_channel(api.grpc) as channel:
            await queue.register("the test", [VARIANT], ttl_s=600)
            holds, second, again = (upload(name, photo(), piece=100) for name in ("holds", "second", "again"))
            call = UpscaleServiceStub(channel).Upscale()
            for request in (*holds[:2], *second):
                await call.write(request)
            refused = await call.read()
            assert refused.failed.image_id == "second", refused
            assert reason(refused.failed.status)[:2] == ("UNAVAILABLE", "UNAVAILABLE")
            async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:
                answer = await client.post("/v1/upscale", files={"image": photo()})
                check_problem(answer, 503, "unavailable")
                assert int(answer.headers["retry-after"]) > 0
                for request in holds[2:]:
                    await call.write(request)
                assert (await call.read()).accepted.image_id == "holds"  # its bytes are stored: the slot is free
                later = {"files": {"image": photo()}, "headers": {"Prefer": "respond-async"}}
                assert (await client.post("/v1/upscale", **later)).status_code == 202
                for request in again[:2]:
                    await call.write(request)
                call.cancel()
                assert (await client.post("/v1/upscale", **later)).status_code == 202
