"""REST over real sockets, with an API process alone: the test works on its jobs, so each state can be looked at."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pytest
from PIL import Image
from redis.asyncio import Redis

from service.api.ports import holder
from service.errors import ProcessingFailed
from service.job import JobState, Result
from service.queue.blobs import result_key
from service.queue.queue import Queue
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api, start
from tests.pictures import photo
from tests.problems import check_problem


@pytest.fixture(scope="module")
def api() -> Iterator[LoneApi]:
    limits = {"OMGSR_MAX_UPLOAD_BYTES": "200000", "OMGSR_MAX_INPUT_PIXELS": "40000", "OMGSR_MAX_OUTPUT_PIXELS": "90000"}
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder), **limits) as started:
        yield started


@pytest.fixture
async def queue(api: LoneApi) -> AsyncIterator[Queue]:
    async with api.queue() as made:
        await made.register("the test", [VARIANT], ttl_s=600)
        yield made


@pytest.fixture
async def alone(api: LoneApi, queue: Queue) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as made:
        yield made


async def submit(client: httpx.AsyncClient, **options: str) -> str:
    answer = await client.post(
        "/v1/upscale", files={"image": ("a.png", photo())}, data=options, headers={"Prefer": "respond-async"}
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def lease(queue: Queue, job_id: str):
    leased = await queue.lease([VARIANT.name], "the test", 1)
    assert [one.job.id for one in leased] == [job_id]
    return leased[0]


async def test_a_job_through_all_its_states(api, alone, queue):
    job_id = await submit(alone)
    job = (await alone.get(f"/v1/jobs/{job_id}")).json()
    assert (job["state"], job["position"], job["model"]) == ("queued", 0, VARIANT.name)
    assert "is queued" in check_problem(await alone.get(f"/v1/jobs/{job_id}/result"), 409, "not-ready")

    leased = await lease(queue, job_id)
    await queue.progress(job_id, leased.attempt, 1, 4)
    job = (await alone.get(f"/v1/jobs/{job_id}")).json()
    assert (job["state"], job["tiles_done"], job["tiles_total"]) == ("running", 1, 4)

    key = result_key(job_id, leased.attempt)
    api.blobs.put(key, b"the result's bytes")
    await queue.finish(job_id, leased.attempt, Result(key=key, mime_type="image/png", width=1, height=1, bytes=18))
    assert (await alone.get(f"/v1/jobs/{job_id}")).json()["state"] == "succeeded"
    answer = await alone.get(f"/v1/jobs/{job_id}/result")
    assert (answer.content, answer.headers["content-type"]) == (b"the result's bytes", "image/png")


async def test_a_failed_job_answers_with_its_problem(alone, queue):
    waiting = asyncio.create_task(alone.post("/v1/upscale", files={"image": ("a.png", photo())}))
    leased = await first_lease(queue)
    await queue.fail(
        leased.job.id, leased.attempt, ProcessingFailed("The device burned.", "Buy another.").problem(), retry=False
    )
    assert check_problem(await waiting, 500, "processing-failed") == "The device burned. Buy another."
    check_problem(await alone.get(f"/v1/jobs/{leased.job.id}/result"), 500, "processing-failed")
    job = (await alone.get(f"/v1/jobs/{leased.job.id}")).json()
    assert job["state"] == "failed"
    assert job["error"]["advice"] == "Buy another."


async def test_cancel(alone, queue):
    job_id = await submit(alone)
    assert (await alone.delete(f"/v1/jobs/{job_id}")).json()["state"] == "cancelled"
    assert (await alone.delete(f"/v1/jobs/{job_id}")).json()["state"] == "cancelled"
    check_problem(await alone.get(f"/v1/jobs/{job_id}/result"), 409, "cancelled")
    assert await queue.lease([VARIANT.name], "the test", 1) == []


async def test_a_client_that_leaves_a_sync_call_cancels_its_job(api, queue):
    async with httpx.AsyncClient(base_url=api.url) as leaving:
        call = asyncio.create_task(leaving.post("/v1/upscale", files={"image": ("a.png", photo())}))
        leased = await first_lease(queue)
        call.cancel()
    async with asyncio.timeout(20):
        assert (await queue.wait(leased.job.id)).state is JobState.CANCELLED


async def test_a_sync_call_whose_job_the_queue_lost_may_try_again(api, alone, queue):
    call = asyncio.create_task(alone.post("/v1/upscale", files={"image": ("a.png", photo())}))
    lost = await first_lease(queue)
    async with Redis.from_url(api.server.url) as server:
        await server.flushall()
        await server.xadd("{omgsr}:ended", {"id": lost.job.id})  # else looked up after half a minute
    assert f"lost the job {lost.job.id}" in check_problem(await call, 503, "unavailable")


async def test_priority_and_options_reach_the_job(alone, queue):
    given = {"scale": "2", "color_fix": "none", "depth": "16", "metadata": "strip", "deadline_s": "60"}
    ordinary, urgent = await submit(alone), await submit(alone, priority="5", **given)
    leased = await lease(queue, urgent)
    told = leased.job.options.model_dump(include=given.keys())
    assert told == {"scale": 2, "color_fix": "none", "depth": 16, "metadata": "strip", "deadline_s": 60}
    assert (leased.job.client, leased.job.bytes) == ("127.0.0.1", len(photo()))
    assert leased.job.cost == pytest.approx(112 * 64 / 1e6)  # 80×48, raised to 64 on the short side, to whole latents
    for job_id in (ordinary, urgent):
        await alone.delete(f"/v1/jobs/{job_id}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": "9"}, "less than or equal to 8"),
        ({"scale": "nan"}, "scale"),
        ({"scale": "large"}, "'large'"),
        ({"strength": "-1"}, "strength"),
        ({"format": "bmp"}, "'png', 'jpeg', 'webp' or 'avif'"),
        ({"color_fix": "lut"}, "'adain'"),
        ({"quality": "101"}, "quality"),
        ({"priority": "11"}, "priority"),
        ({"depth": "12"}, "depth"),
        ({"depth": "16", "format": "jpeg"}, "16 bits per sample need format=png"),
        ({"metadata": "some"}, "metadata"),
        ({"deadline_s": "0"}, "deadline_s"),
        ({"sclae": "2"}, "no option `sclae`. The options are: model, scale"),
        ({"scale": ["2", "3"]}, "more than once"),
    ],
)
async def test_options_out_of_range_are_refused(alone, options, said):
    for place in ("data", "params"):
        answer = await alone.post("/v1/upscale", files={"image": ("a.png", photo())}, **{place: options})
        assert said in check_problem(answer, 422, "bad-option")


async def test_unknown_model_and_job_and_path_and_method(alone):
    answer = await alone.post("/v1/upscale?model=nonesuch", files={"image": ("a.png", photo())})
    assert "'nonesuch' is served. Served are: hand-made." in check_problem(answer, 404, "unknown-model")
    for method in ("GET", "DELETE"):
        check_problem(await alone.request(method, "/v1/jobs/nonesuch"), 404, "job-not-found")
    check_problem(await alone.get("/v1/jobs/nonesuch/result"), 404, "job-not-found")
    check_problem(await alone.get("/nonesuch"), 404, "about:blank")
    answer = await alone.put("/v1/models")
    check_problem(answer, 405, "about:blank")
    assert answer.headers["allow"] == "GET"


async def test_what_is_too_large_is_refused(alone):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    out = BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    for request in (
        {"files": {"image": out.getvalue()}},
        {"content": out.getvalue(), "headers": {"content-type": "image/png"}},
    ):
        assert "200,000 bytes" in check_problem(await alone.post("/v1/upscale", **request), 413, "too-many-bytes")

    async def unannounced(size: int) -> AsyncIterator[bytes]:  # no Content-Length to go by
        yield bytes(size)

    for size in (200_001, 230_000, 260_000, 500_000):  # the limit is passed in the last piece, or before it
        answer = await alone.post("/v1/upscale", content=unannounced(size), headers={"content-type": "image/png"})
        check_problem(answer, 413, "too-many-bytes")
    answer = await alone.post("/v1/upscale", files={"image": photo(300, 200)})
    assert "300×200" in check_problem(answer, 413, "too-many-pixels")
    answer = await alone.post("/v1/upscale", files={"image": photo(150, 100)}, params={"scale": "3"})
    assert "450×300" in check_problem(answer, 413, "too-many-pixels")
    answer = await alone.post("/v1/upscale", files={"image": photo(2000, 1)}, params={"scale": "2"})
    assert "too long a strip" in check_problem(answer, 413, "too-many-pixels")
    answer = await alone.post("/v1/upscale", files={"image": photo(300, 10)}, params={"scale": "2"})
    assert "works at 64 pixels" in check_problem(answer, 413, "too-many-pixels")


async def test_bodies_that_are_no_upload_are_refused(alone):
    post = alone.post
    check_problem(await post("/v1/upscale"), 415, "wrong-content-type")
    check_problem(await post("/v1/upscale", data={"image": "x"}), 415, "wrong-content-type")
    check_problem(await post("/v1/upscale", json={"image": "x"}), 415, "wrong-content-type")
    check_problem(await post("/v1/upscale", content=b"", headers={"content-type": "image/png"}), 400, "bad-request")
    check_problem(await post("/v1/upscale", files={"image": ("a.png", b"")}), 400, "bad-request")
    assert "-F image=@photo.jpg" in check_problem(
        await post("/v1/upscale", files={"photo": photo()}), 400, "bad-request"
    )
    two = [("image", ("a.png", photo())), ("image", ("b.png", photo()))]
    check_problem(await post("/v1/upscale", files=two), 400, "bad-request")
    check_problem(await post("/v1/upscale", files={"image": ("a.png", b"no image")}), 415, "not-an-image")
    check_problem(await post("/v1/upscale", files={"image": ("a.png", photo()[:-40])}), 422, "truncated")


async def test_request_ids_and_timing_are_on_every_answer(alone):
    for path in ("/livez", "/nonesuch", "/v1/models", "/metrics", "/docs", "/"):
        answer = await alone.get(path, headers={"X-Request-Id": "mine-42"})
        assert answer.headers["x-request-id"] == "mine-42"
        assert answer.headers["server-timing"].startswith("total;dur=")
    for odd in ("x" * 129, "a b", "<script>", ""):
        made = (await alone.get("/livez", headers={"X-Request-Id": odd})).headers["x-request-id"]
        assert len(made) == 32


async def test_the_page_and_the_docs_are_there(alone):
    assert "text/html" in (await alone.get("/")).headers["content-type"]
    page = await alone.get("/docs")
    assert '"/openapi.json"' in page.text.replace("'", '"')
    assert (await alone.get("/openapi.json")).json()["info"]["title"] == "OMGSR Serve"


async def test_without_a_worker_or_without_a_queue_it_says_so(state: Path):
    with lone_api(state) as api:
        async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:
            for queue_is_there in (True, False):
                if not queue_is_there:
                    api.server.stop()
                assert (await client.get("/livez")).status_code == 200
                check_problem(await client.get("/readyz"), 503, "unavailable")
                answer = await client.post("/v1/upscale", files={"image": photo()})
                check_problem(answer, 503, "unavailable")
                assert int(answer.headers["retry-after"]) > 0
                assert (await client.get("/metrics")).status_code == 200
        assert "Traceback" not in api.said


async def test_a_model_that_comes_later_is_found_at_once(state: Path):
    with lone_api(state) as api:
        async with api.queue() as queue, httpx.AsyncClient(base_url=api.url, timeout=60) as client:
            await queue.register("the test", [VARIANT], ttl_s=600)
            await submit(client)
            await queue.register("another", [VARIANT.model_copy(update={"name": "newcomer"})], ttl_s=600)
            await submit(client, model="newcomer")


async def test_a_store_that_takes_no_file_is_unavailable(state: Path):
    (state / "blobs").write_bytes(b"a file where the folder should be")
    with lone_api(state) as api:
        async with api.queue() as queue, httpx.AsyncClient(base_url=api.url, timeout=60) as client:
            await queue.register("the test", [VARIANT], ttl_s=600)
            answer = await client.post("/v1/upscale", files={"image": photo()})
    assert "cannot store" in check_problem(answer, 503, "unavailable")


async def test_a_stop_lets_the_request_at_hand_finish(state: Path):
    with lone_api(state, OMGSR_DRAIN_S="20") as api:
        async with api.queue() as queue, httpx.AsyncClient(base_url=api.url, timeout=60) as client:
            await queue.register("the test", [VARIANT], ttl_s=600)
            waiting = asyncio.create_task(client.post("/v1/upscale", files={"image": ("a.png", photo())}))
            leased = await first_lease(queue)
            api.process.send_signal(signal.SIGTERM)
            key = result_key(leased.job.id, leased.attempt)
            api.blobs.put(key, b"finished")
            done = Result(key=key, mime_type="image/png", width=1, height=1, bytes=8)
            await queue.finish(leased.job.id, leased.attempt, done)
            assert (await waiting).content == b"finished"


def test_a_taken_port_is_named_with_its_holder(api: LoneApi, state: Path):
    port = api.url.rpartition(":")[2]
    for name in ("OMGSR_PORT", "OMGSR_GRPC_PORT"):
        port = (api.url if name == "OMGSR_PORT" else api.grpc).rpartition(":")[2]
        process = start(state, **{name: port})
        _, said = process.communicate(timeout=30)
        assert process.returncode != 0
        assert f"port {port} on 127.0.0.1 is taken" in said.replace("Port", "port")
        assert f"process {api.process.pid}" in said
    assert str(api.process.pid) in holder(int(port))
