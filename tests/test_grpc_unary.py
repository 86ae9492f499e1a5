"""gRPC's small images: whole in one message each way."""

import asyncio
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1.upscale_pb2_grpc import UpscaleServiceStub
from PIL import Image

from service.job import JobState
from tests.conversation import finish, reason, status_of
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api
from tests.pictures import photo


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder), OMGSR_MAX_WAITING="2") as started:
        yield started


@pytest.fixture
async def queue(api: LoneApi):
    async with api.queue() as made:
        await made.register("the test", [VARIANT], ttl_s=600)
        yield made


@pytest.fixture
async def stub(api: LoneApi):
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        yield UpscaleServiceStub(channel)


def asking(data: bytes, **options) -> pb.UpscaleImageRequest:
    return pb.UpscaleImageRequest(options=pb.Start(**options), data=data)


async def test_an_image_comes_back_upscaled(service):
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        call = UpscaleServiceStub(channel).UpscaleImage(asking(photo(96, 64), scale=4.0), timeout=60)
        answer = await call
    assert (answer.mime_type, answer.width, answer.height) == ("image/png", 384, 256)
    assert Image.open(BytesIO(answer.data)).size == (384, 256)
    assert dict(await call.initial_metadata())["x-job-id"] == answer.job_id


async def test_the_job_is_told_before_it_is_done_and_the_call_s_id_is_kept(api, queue):
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        # Python's own call of one message tells nothing before the end; the same call as a stream does.
        method = channel.unary_stream(
            "/omgsr.v1.UpscaleService/UpscaleImage",
            request_serializer=pb.UpscaleImageRequest.SerializeToString,
            response_deserializer=pb.UpscaleImageResponse.FromString,
        )
        call = method(asking(photo()), timeout=30, metadata=(("x-request-id", "my-own.1"),))
        told = dict(await call.initial_metadata())
        leased = await first_lease(queue)
        assert (told["x-job-id"], told["x-request-id"]) == (leased.job.id, "my-own.1")
        assert leased.job.request_id == "my-own.1"
        assert leased.job.attended
        assert 0 < leased.job.options.deadline_s <= 30
        await finish(api, queue, leased, b"made")
        assert (await call.read()).data == b"made"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asking(b"hello"), ("INVALID_ARGUMENT", "NOT_AN_IMAGE")),
        (asking(b""), ("INVALID_ARGUMENT", "NOT_AN_IMAGE")),
        (asking(photo(), scale=99.0), ("INVALID_ARGUMENT", "BAD_OPTION")),
        (asking(photo(), deadline_s=-1.0), ("INVALID_ARGUMENT", "BAD_OPTION")),
        (asking(photo(), model="nonesuch"), ("NOT_FOUND", "UNKNOWN_MODEL")),
        (asking(photo(), total_bytes=7), ("INVALID_ARGUMENT", "BAD_REQUEST")),
        (asking(photo(), idempotency_key="with space"), ("INVALID_ARGUMENT", "BAD_REQUEST")),
    ],
)
async def test_a_refusal_is_the_call_s_status(queue, stub, request_, expected):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.UpscaleImage(request_, timeout=20, metadata=(("x-request-id", "mine"),))
    code, why, advice = reason(status_of(caught.value))
    assert (code, why) == expected
    assert caught.value.code().name == code
    assert advice in caught.value.details()
    assert dict(caught.value.trailing_metadata())["x-request-id"] == "mine"


async def test_a_full_queue_says_when_to_come_again(queue, stub):
    calls = [stub.UpscaleImage(asking(photo())) for _ in range(2)]
    async with asyncio.timeout(20):
        while len(await queue.active()) < 2:
            await asyncio.sleep(0.02)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.UpscaleImage(asking(photo()))
    status, retry = status_of(caught.value), RetryInfo()
    assert reason(status)[:2] == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.seconds > 0
    for call in calls:
        call.cancel()
    async with asyncio.timeout(20):
        while await queue.active():
            await asyncio.sleep(0.05)


async def test_a_result_beyond_one_message_is_refused_and_kept(api, queue, stub):
    call = stub.UpscaleImage(asking(photo()))
    leased = await first_lease(queue)
    await finish(api, queue, leased, bytes(4 * 2**20))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert reason(status_of(caught.value))[:2] == ("OUT_OF_RANGE", "RESULT_TOO_LARGE")
    assert (await queue.status(leased.job.id)).state is JobState.SUCCEEDED
    call = stub.UpscaleImage(asking(photo()))
    leased = await first_lease(queue)
    await finish(api, queue, leased, bytes(4 * 2**20 - 2048))
    assert len((await call).data) == 4 * 2**20 - 2048


async def test_a_file_beyond_one_message_is_refused(stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.UpscaleImage(asking(bytes(4 * 2**20 + 1)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_client_that_leaves_cancels_its_job_unless_it_gave_a_key(api, queue, stub):
    call, kept = stub.UpscaleImage(asking(photo())), stub.UpscaleImage(asking(photo(), idempotency_key="kept"))
    leased = {each.job.idempotency_key: each for each in [await first_lease(queue), await first_lease(queue)]}
    call.cancel()
    kept.cancel()
    async with asyncio.timeout(20):
        assert (await queue.wait(leased[""].job.id)).state is JobState.CANCELLED
    assert (await queue.status(leased["kept"].job.id)).state is JobState.RUNNING
    await finish(api, queue, leased["kept"], b"made")
    assert (await stub.UpscaleImage(asking(photo(), idempotency_key="kept"))).data == b"made"


async def test_the_deadline_cancels_the_job(queue, stub):
    call = stub.UpscaleImage(asking(photo()), timeout=1.5)
    leased = await first_lease(queue)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(20):
        assert (await queue.wait(leased.job.id)).state.final


@pytest.mark.parametrize("sent", [b"\xff\xff\xff", None])
async def test_what_is_no_message_is_told_so(api, sent):
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        call = channel.stream_stream("/omgsr.v1.UpscaleService/UpscaleImage")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call(iter([] if sent is None else [sent])):
                pass
    assert reason(status_of(caught.value))[:2] == ("INVALID_ARGUMENT", "BAD_REQUEST")
