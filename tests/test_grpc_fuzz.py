"""Messages that no client should send: each call ends with a sane status, and the server lives."""

import asyncio
from collections.abc import Iterator
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
IDS = st.sampled_from(["", "a", "b", "c", "\0", "ü" * 300, "x" * 5000])
TEXTS = (
    st.sampled_from(["", "stub", "png", "jpeg", "webp", "avif", "adain", "none", "keep", "strip", "🙂\n"]) | st.text()
)
WHOLE = st.sampled_from([0, 1, 8, 16, 95, -1, 2**31 - 1, -(2**31)])
FRACTIONS = st.sampled_from([0.0, 1.0, 1.5, 4.0, -1.0, 1e308, float("nan"), float("inf"), 5e-324]) | st.floats()
FILES = st.sampled_from([photo(8, 8), photo(12, 9), *seeds().values(), *flipped(2), *strangers()]) | st.binary()

STARTS = st.builds(
    pb.Start,
    image_id=IDS,
    model=TEXTS,
    scale=st.none() | FRACTIONS,
    strength=st.none() | FRACTIONS,
    color_fix=TEXTS,
    format=TEXTS,
    quality=WHOLE,
    priority=WHOLE,
    idempotency_key=st.sampled_from(["", "", "k"]) | st.text(),
    total_bytes=st.sampled_from([0, 0, 1, 2**63, 2**64 - 1]),
    depth=WHOLE,
    metadata=TEXTS,
    deadline_s=st.none() | FRACTIONS,
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
    with TemporaryDirectory(prefix="omgsr-") as folder, running_stub(Path(folder)) as started:
        yield started
        process = psutil.Process(started.api.process.pid)
        assert process.is_running()
        said = "".join(started.api.log.lines)
        assert "Traceback" not in said
        assert "unexpected error" not in said


async def ask(address: str, method: str, messages: list[bytes]) -> list[pb.UpscaleResponse]:
    """Send what it is, and return what came back. Raises AioRpcError."""
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(60):
        call = channel.stream_stream(f"/omgsr.v1.UpscaleService/{method}")(iter(messages), timeout=20)
        return [answer async for answer in call]


def name_of(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


@often
@given(messages=st.lists(WIRE, max_size=6))
def test_a_stream_of_anything(service: StubService, messages: list[bytes]):
    try:
        answers = [pb.UpscaleResponse.FromString(each) for each in asyncio.run(ask(service.grpc, "Upscale", messages))]
    except grpc.aio.AioRpcError as error:
        assert error.code().name in SANE, error
        return
    for answer in answers:
        if answer.HasField("failed"):
            assert name_of(answer.failed.status.code) in SANE, answer
            assert "Traceback" not in answer.failed.status.message


@often
@given(message=SMALL | st.binary(max_size=50))
def test_a_small_image_of_anything(service: StubService, message: bytes):
    try:
        (answer,) = asyncio.run(ask(service.grpc, "UpscaleImage", [message]))
        assert pb.UpscaleImageResponse.FromString(answer).width
    except grpc.aio.AioRpcError as error:
        assert error.code().name in SANE, error
