"""How the images of a call end: by its deadline, by a key that others share, by their client's leaving."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1.upscale_pb2_grpc import UpscaleServiceStub

from service.job import JobState
from tests.conversation import converse, finish, reason, upload
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api
from tests.pictures import photo


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder)) as started:
        yield started


@pytest.fixture
async def queue(api: LoneApi):
    async with api.queue() as made:
        await made.register("the test", [VARIANT], ttl_s=600)
        yield made


async def test_what_a_start_says_reaches_the_worker(api, queue):
    asked = {"scale": 2.5, "strength": 0.5, "color_fix": "wavelet", "priority": 3, "depth": 16, "metadata": "strip"}
    waiting = asyncio.create_task(converse(api.grpc, upload("one", photo(), deadline_s=5000.0, **asked)))
    leased = await first_lease(queue)
    assert leased.job.options.model_dump(exclude_defaults=True) == {
        **asked,
        "model": VARIANT.name,
        "deadline_s": 5000.0,
    }
    assert leased.job.attended
    assert leased.job.client == "127.0.0.1"
    await finish(api, queue, leased, b"made")
    assert (await waiting).files == {"one": b"made"}


@pytest.mark.parametrize(("given", "expected"), [(None, 20.0), (5.0, 5.0), (500.0, 20.0)])
async def test_the_call_s_deadline_bounds_its_images_(api, queue, given, expected):
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        await channel.channel_ready()  # or connecting hides how gRPC rounds the time that is left
        options = {} if given is None else {"deadline_s": given}
        call = UpscaleServiceStub(channel).Upscale(iter(upload("one", photo(), **options)), timeout=20)
        leased = await first_lease(queue)
        call.cancel()
    assert leased.job.options.deadline_s <= expected
    assert leased.job.options.deadline_s > expected - 5


async def test_a_call_that_runs_into_its_deadline_leaves_no_job(api, queue):
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        call = UpscaleServiceStub(channel).Upscale(iter(upload("late", photo())), timeout=2)
        leased = await first_lease(queue)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(20):
            assert (await queue.wait(leased.job.id)).state.final


async def test_an_image_past_its_own_deadline_fails_alone(api, queue):
    requests = [*upload("hasty", photo(), deadline_s=0.1), *upload("patient", photo(41))]
    waiting = asyncio.create_task(converse(api.grpc, requests))
    async with asyncio.timeout(20):
        while (leased := await first_lease(queue)).job.width == 40:  # it was quicker than the deadline: let it pass
            pass
        while 40 in [each.job.width for each in await queue.active()]:
            await queue.reclaim()
    await finish(api, queue, leased, b"made")
    answers = await waiting
    assert answers.files == {"patient": b"made"}
    assert reason(answers.failed["hasty"])[:2] == ("DEADLINE_EXCEEDED", "DEADLINE_PASSED")


async def test_a_second_image_with_the_key_joins_the_first(api, queue):
    first = asyncio.create_task(converse(api.grpc, upload("first", photo(), idempotency_key="k1")))
    leased = await first_lease(queue)
    assert not leased.job.attended
    second = asyncio.create_task(
        converse(
            api.grpc,
            [*upload("second", photo(), idempotency_key="k1"), *upload("other", photo(41), idempotency_key="k1")],
        )
    )
    await finish(api, queue, leased, b"made once")
    answers = await first, await second
    assert answers[0].files == {"first": b"made once"}
    assert answers[1].files == {"second": b"made once"}
    assert not answers[0].accepted["first"].joined
    assert answers[1].accepted["second"].joined
    assert answers[1].accepted["second"].job_id == leased.job.id
    assert reason(answers[1].failed["other"])[:2] == ("INVALID_ARGUMENT", "KEY_REUSED")


async def test_a_job_with_a_key_outlives_its_client_and_waits_for_it(api, queue):
    kept = upload("kept", photo(), idempotency_key="k2")
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        requests = [*kept, *upload("left", photo(41))]
        call = UpscaleServiceStub(channel).Upscale(iter(requests), timeout=60)
        leased = {each.job.idempotency_key: each for each in [await first_lease(queue), await first_lease(queue)]}
        assert leased["k2"].job.options.deadline_s is None
        call.cancel()
        async with asyncio.timeout(20):
            assert (await queue.wait(leased[""].job.id)).state is JobState.CANCELLED
    assert (await queue.status(leased["k2"].job.id)).state is JobState.RUNNING
    await finish(api, queue, leased["k2"], b"made")
    answers = await converse(api.grpc, kept)
    assert answers.accepted["kept"].joined
    assert answers.files == {"kept": b"made"}


async def test_a_cancel_on_the_stream_ends_a_job_with_a_key_too(api, queue):
    async def requests():
        for request in upload("one", photo(), idempotency_key="k3"):
            yield request
        leased.append(await first_lease(queue))
        yield pb.UpscaleRequest(cancel=pb.Cancel(image_id="one"))

    leased = []
    answers = await converse(api.grpc, requests())
    assert reason(answers.failed["one"])[:2] == ("CANCELLED", "CANCELLED")
    assert (await queue.status(leased[0].job.id)).state is JobState.CANCELLED


async def test_a_result_that_is_gone_is_told(api, queue):
    waiting = asyncio.create_task(converse(api.grpc, upload("one", photo())))
    leased = await first_lease(queue)
    await finish(api, queue, leased, b"made")
    answers = await waiting
    assert answers.files == {"one": b"made"}
    kept = upload("kept", photo(), idempotency_key="k4")
    waiting = asyncio.create_task(converse(api.grpc, kept))
    leased = await first_lease(queue)
    await finish(api, queue, leased, b"made")
    await waiting
    api.blobs.delete(leased.job.id)
    answers = await converse(api.grpc, kept)
    assert reason(answers.failed["kept"])[:2] == ("NOT_FOUND", "JOB_NOT_FOUND")
