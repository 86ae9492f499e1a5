"""gRPC over real sockets: images on a stream, each with its own end."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1.upscale_pb2_grpc import UpscaleServiceStub
from PIL import Image

from service.job import JobState, Result
from service.queue.blobs import result_key
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api
from tests.pictures import photo
from tests.problems import check_problem

SERVICE = "omgsr.v1.UpscaleService"
PIECE = 1000


def upload(image_id: str, data: bytes, piece: int = PIECE, **options) -> list[pb.UpscaleRequest]:
    """A start and the file in pieces."""
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)] or [b""]
    start = pb.Start(image_id=image_id, total_bytes=len(data), **options)
    return [
        pb.UpscaleRequest(start=start),
        *(
            pb.UpscaleRequest(chunk=pb.Chunk(image_id=image_id, data=part, last=i == len(pieces) - 1))
            for i, part in enumerate(pieces)
        ),
    ]


class Answers:
    """What came back, by image."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.starts: dict[str, pb.ResultStart] = {}
        self.failed: dict[str, object] = {}
        self.accepted: dict[str, pb.Accepted] = {}
        self.progress: list[pb.Progress] = []
        self.ended: set[str] = set()

    def take(self, answer: pb.UpscaleResponse) -> None:
        kind = answer.WhichOneof("message")
        said = getattr(answer, kind)
        if kind == "accepted":
            self.accepted[said.image_id] = said
        elif kind == "progress":
            self.progress.append(said)
        elif kind == "result_start":
            self.starts[said.image_id] = said
        elif kind == "failed":
            self.failed[said.image_id] = said.status
            self.ended.add(said.image_id)
        else:
            assert len(said.data) <= 256 * 1024
            self.files[said.image_id] = self.files.get(said.image_id, b"") + said.data
            if said.last:
                self.ended.add(said.image_id)


async def converse(address: str, requests: list[pb.UpscaleRequest]) -> Answers:
    answers = Answers()
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(60):
        async for answer in UpscaleServiceStub(channel).Upscale(iter(requests)):
            answers.take(answer)
    return answers


def reason(status) -> tuple[str, str, str]:
    """Code's name, reason, advice."""
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert "Traceback" not in status.message
    name = next(code.name for code in grpc.StatusCode if code.value[0] == status.code)
    return name, info.reason, info.metadata["advice"]


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


async def test_health_and_reflection(service):
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        for name in ("", SERVICE):
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked):
            listed = {one.name for one in answer.list_services_response.service}
    assert listed >= {SERVICE, "grpc.health.v1.Health"}


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


async def test_an_oversized_message_ends_the_stream_only(api):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await converse(api.grpc, upload("large", bytes(2 * 2**20), piece=2 * 2**20))
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


async def test_a_stop_lets_the_image_at_hand_finish(state: Path):
    with lone_api(state, OMGSR_DRAIN_S="20") as api:
        async with api.queue() as queue:
            await queue.register("the test", [VARIANT], ttl_s=600)
            waiting = asyncio.create_task(converse(api.grpc, upload("last", photo())))
            leased = await first_lease(queue)
            api.process.send_signal(signal.SIGTERM)
            key = result_key(leased.job.id, leased.attempt)
            api.blobs.put(key, b"finished")
            done = Result(key=key, mime_type="image/png", width=1, height=1, bytes=8)
            await queue.finish(leased.job.id, leased.attempt, done)
            assert (await waiting).files == {"last": b"finished"}


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
