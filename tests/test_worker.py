"""A worker process with a stub for its model: it says how it is, keeps to its memory, and lets go of what is over."""

import asyncio
import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pytest
from PIL import Image

from service.errors import Unavailable
from service.job import JobState
from service.settings import Settings
from service.worker.served import Models
from service.worker.variants import load_models
from tests.pictures import photo
from tests.running import StubService, running_stub
from tests.stub_jobs import ENDS_S, TILE, TILES_20, TILES_121, ends, metrics, submit

BUDGET = 50_000_000
SETTINGS = {"OMGSR_WORKER_PORT": "0", "OMGSR_LEASE_S": "600", "OMGSR_MAX_DEVICE_BYTES": str(BUDGET)}


@pytest.fixture(scope="module")
def stub() -> Iterator[StubService]:
    """A service for all tests here: they leave it as they found it."""
    with TemporaryDirectory(prefix="omgsr-") as folder, running_stub(Path(folder), **SETTINGS) as service:
        yield service


async def test_a_worker_says_on_its_own_listener_how_it_is(stub: StubService) -> None:
    worker = stub.workers[0]
    async with stub.queue() as queue:
        assert (await ends(queue, await submit(stub, queue, TILES_20)))[0].state is JobState.SUCCEEDED
    assert httpx.get(f"{worker.listener}/livez").json() == {"status": "alive"}
    assert httpx.get(f"{worker.listener}/readyz").status_code == 200
    assert httpx.get(f"{worker.listener}/nothing").status_code == 404
    assert httpx.post(f"{worker.listener}/livez").status_code == 405
    head = httpx.head(f"{worker.listener}/metrics")
    assert (head.status_code, head.content) == (200, b"")
    told = metrics(worker)
    assert told["omgsr_worker_ready"] == 1
    assert told["omgsr_batch_size_sum"] == 1 + 20 + 1
    assert told["omgsr_batch_fill_ratio_count"] == told["omgsr_batch_duration_seconds_count"] == 1 + 5 + 1
    assert told["omgsr_tiles_per_request_sum"] == 20
    assert told["omgsr_device_memory_bytes"] == BUDGET
    assert told["omgsr_stage_duration_seconds_count"] == 5
    assert told["process_resident_memory_bytes"] > 0
    assert "omgsr_workers_alive" not in told, "it knows nothing of the others"
    assert told["omgsr_retries_total"] == told["omgsr_dead_letters_total"] == 0


async def test_rubbish_on_the_listener_does_no_harm(stub: StubService) -> None:
    worker = stub.workers[0]
    port = int(worker.listener.rsplit(":", 1)[1])
    for rubbish in (b"\r\n\r\n", b"\xff" * 100_000, b"GET", b"GET /livez HTTP/9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(rubbish)
    assert httpx.get(f"{worker.listener}/livez").status_code == 200


def test_a_port_that_is_taken_is_a_failed_start_in_words(stub: StubService) -> None:
    port = stub.workers[0].listener.rsplit(":", 1)[1]
    with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{port}"):
        stub.add_worker(OMGSR_WORKER_PORT=port)


async def test_an_image_that_can_never_fit_is_refused_with_the_numbers(stub: StubService) -> None:
    async with stub.queue() as queue:
        both = [await submit(stub, queue, size) for size in ((160, 160), TILE)]
        refused, done = await ends(queue, *both)
    assert done.state is JobState.SUCCEEDED
    assert refused.error
    assert (refused.error.status, refused.attempt) == (413, 1)
    assert "needs 97 MiB of device memory at 4×, and there are 48 MiB" in refused.error.detail


def test_a_model_that_does_not_fit_is_refused_at_start_with_the_numbers(tiny_models: Path) -> None:
    def load(budget: int) -> Models:
        return load_models(
            Settings(models=[tiny_models / "tiny-s"], device="cpu", backend="eager", max_device_bytes=budget)
        )

    weights = load(10**9).weight_bytes
    assert load(10**9).budget_bytes == 10**9 - weights
    with pytest.raises(Unavailable, match=r"'tiny-s' does not fit: its weights take \d MiB, and of 0 MiB"):
        load(9999)
    with pytest.raises(
        Unavailable, match=r"one image of 128×128 pixels takes \d+ MiB, and of \d MiB the models' weights"
    ):
        load(weights + 9999)


async def test_a_cancelled_job_is_dropped_after_a_batch_or_two(stub: StubService) -> None:
    worker = stub.workers[0]
    async with stub.queue() as queue:
        job_id = await submit(stub, queue, TILES_121)
        async for event in queue.events(job_id):
            if event.tiles_done:
                break
        before = metrics(worker)["omgsr_batch_size_count"]
        assert await queue.cancel(job_id) is JobState.CANCELLED
        await asyncio.to_thread(worker.log.find, f"(?=.*{job_id}).*job dropped", ENDS_S)
        (after,) = await ends(queue, await submit(stub, queue, TILE))
        assert after.state is JobState.SUCCEEDED
    batches = metrics(worker)["omgsr_batch_size_count"] - before
    assert batches <= 3 + 3, "more than a batch or two after the cancel, besides the second job's three"


async def test_a_stranger_overtakes_what_a_full_worker_holds(stub: StubService) -> None:
    async with stub.queue() as queue:
        crowd = [await submit(stub, queue, TILES_20, client="crowd") for _ in range(12)]
        async for event in queue.events(crowd[0]):
            if event.tiles_done:
                break
        calm = await submit(stub, queue, TILE, client="calm")
        (after,) = await ends(queue, calm)
        assert after.state is JobState.SUCCEEDED
        done = [job_id for job_id in crowd if (await queue.status(job_id)).state.final]
        assert len(done) <= 2, "the images that it held, one of twenty tiles at a time, went before"
        await ends(queue, *crowd)


async def test_a_stub_service_answers_the_bicubic_image(stub: StubService) -> None:
    data = photo(40, 24)
    answer = httpx.post(f"{stub.url}/v1/upscale", content=data, headers={"Content-Type": "image/png"}, timeout=ENDS_S)
    assert answer.status_code == 200, answer.text
    models = httpx.get(f"{stub.url}/v1/models").json()["models"]
    assert [each["name"] for each in models] == ["stub"]
    with Image.open(BytesIO(data)) as sent, Image.open(BytesIO(answer.content)) as got:
        wanted = sent.resize((160, 96), Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(got), np.asarray(wanted))
