"""Messages that no client should send: each call ends with a sane status, and the server lives."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omgsr.v1 import upscale_pb2 as pb

from tests.hostile import flipped, seeds, strangers
from tests.pictures import photo
from tests.running import StubService, running_stub
from tests.soak import times

SANE = {
    *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"),
    *("FAILED_PRECONDITION", "OUT_OF_RANGE"),
}


def mostly(good: list, odd: st.SearchStrategy) -> st.SearchStrategy:
    """Or nothing would come far enough to do harm there."""
    return st.one_of(*[st.sampled_from(good)] * 9, odd)


IDS = st.sampled_from(["", "a", "b", "c", "\0", "ü" * 300, "x" * 5000])
FILES = st.sampled_from([photo(8, 8), photo(12, 9), *seeds().values(), *flipped(2), *strangers()]) | st.binary()
ODD_TEXT = st.text() | st.sampled_from(["stub", "png", "none", "🙂\n", "x" * 5000])
ODD_NUMBER = st.integers(-(2**31), 2**31 - 1)
ODD_FRACTION = st.floats()

STARTS = st.builds(
    pb.Start,
    image_id=IDS,
    model=mostly(["", "stub"], ODD_TEXT),
    scale=mostly([None, 1.0, 1.5, 2.0], ODD_FRACTION),
    strength=mostly([None, 0.0, 1.2], ODD_FRACTION),
    color_fix=mostly(["", "adain", "wavelet", "none"], ODD_TEXT),
    format=mostly(["", "png", "jpeg", "webp", "avif"], ODD_TEXT),
    quality=mostly([0, 1, 100], ODD_NUMBER),
    priority=mostly([0, -10, 10], ODD_NUMBER),
    idempotency_key=mostly(["", "", "k"], ODD_TEXT),
    total_bytes=mostly([0], st.integers(0, 2**64 - 1)),
    depth=mostly([0, 8, 16], ODD_NUMBER),
    metadata=mostly(["", "keep", "strip"], ODD_TEXT),
    deadline_s=mostly([None, 10.0], ODD_FRACTION),
)
SMALL_STARTS = st.builds(pb.Start, image_id=IDS, scale=st.sampled_from([None, 1.0, 2.0]))
CHUNKS = st.builds(pb.Chunk, image_id=IDS, data=FILES, last=st.booleans())
MESSAGES = (
    st.builds(pb.UpscaleRequest, start=STARTS | SMALL_STARTS)
    | st.builds(pb.UpscaleRequest, chunk=CHUNKS)
    | st.builds(pb.UpscaleRequest, cancel=st.builds(pb.Cancel, image_id=IDS))
    | st.just(pb.UpscaleRequest())
).map(pb.UpscaleRequest.SerializeToString)
WIRE = MESSAGES | MESSAGES | MESSAGES | st.binary(max_size=50)


def as_upload(start: pb.Start, data: bytes, cut: int) -> list[bytes]:
    """A whole file in two pieces."""
    pieces = [(data[:cut], False), (data[cut:], True)]
    chunks = [pb.Chunk(image_id=start.image_id, data=part, last=last) for part, last in pieces]
    requests = [pb.UpscaleRequest(start=start), *(pb.UpscaleRequest(chunk=chunk) for chunk in chunks)]
    return [request.SerializeToString() for request in requests]


UPLOADS = st.builds(as_upload, STARTS | SMALL_STARTS, FILES, st.integers(0, 200))
TALK = st.lists(UPLOADS | st.lists(WIRE, max_size=3), max_size=4)
SMALL = st.builds(pb.UpscaleImageRequest, options=STARTS | SMALL_STARTS, data=FILES).map(
    pb.UpscaleImageRequest.SerializeToString
)

often = settings(
    max_examples=times(2_500, 75),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    database=None,
)


@pytest.fixture(scope="module")
def service() -> Iterator[StubService]:
    limits = {"OMGSR_MAX_OUTPUT_PIXELS": "40000"}  # a flipped bit makes a size that takes minutes to work on
    with TemporaryDirectory(prefix="omgsr-") as folder, running_stub(Path(folder), **limits) as started:
        yield started
        process = psutil.Process(started.api.process.pid)
        assert process.is_running()
        said = "".join(started.api.log.lines)
        assert "Traceback" not in said
        assert "unexpected error" not in said


async def ask(address: str, method: str, messages: list[bytes]) -> tuple[list[bytes], str]:
    """Send what it is, and return what came back, and the call's status."""
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(60):
        call = channel.stream_stream(f"/omgsr.v1.UpscaleService/{method}")(iter(messages), timeout=20)
        answers: list[bytes] = []
        with suppress(grpc.aio.AioRpcError):
            async for answer in call:
                answers.append(answer)
        return answers, (await call.code()).name


def name_of(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


@often
@given(talk=TALK)
def test_a_stream_of_anything(service: StubService, talk: list[list[bytes]]):
    answers, code = asyncio.run(ask(service.grpc, "Upscale", [message for part in talk for message in part]))
    assert code in SANE
    for answer in map(pb.UpscaleResponse.FromString, answers):
        if answer.HasField("failed"):
            assert name_of(answer.failed.status.code) in SANE, answer
            assert "Traceback" not in answer.failed.status.message


@often
@given(message=SMALL | st.binary(max_size=50))
def test_a_small_image_of_anything(service: StubService, message: bytes):
    answers, code = asyncio.run(ask(service.grpc, "UpscaleImage", [message]))
    assert code in SANE
    assert [pb.UpscaleImageResponse.FromString(answer).width > 0 for answer in answers] == [True] * (code == "OK")
