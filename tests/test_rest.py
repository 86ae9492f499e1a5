"""REST over real sockets, with the whole service."""

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO

import httpx
import pytest
from PIL import Image

from service.queue.queue import Queue
from tests.pictures import photo

JOB_FIELDS = {
    *("id", "state", "model", "position", "tiles_done", "tiles_total", "eta_s"),
    *("created_at", "started_at", "finished_at"),
}


def opened(answer: httpx.Response) -> Image.Image:
    return Image.open(BytesIO(answer.content))


@pytest.fixture
async def client(service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as made:
        yield made


async def test_a_photo_goes_in_and_comes_out_four_times_larger(client):
    answer = await client.post("/v1/upscale", files={"image": ("my Photo.v2.jpg", photo(kind="JPEG"))})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    assert opened(answer).size == (160, 96)
    assert "filename*=UTF-8''my%20Photo.v2_4x.png" in answer.headers["content-disposition"]
    timings = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert timings.keys() >= {"queue_wait", "encode", "predict", "decode", "total"}
    assert all(float(ms) >= 0 for ms in timings.values())


@pytest.mark.parametrize(("wanted", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF")])
async def test_raw_bytes_options_in_the_query_and_every_format(client, wanted, kind):
    answer = await client.post(
        "/v1/upscale",
        params={"scale": "2.5", "format": wanted, "quality": "80", "strength": "0.5", "color_fix": "wavelet"},
        content=photo(41, 23),
        headers={"content-type": "image/png"},
    )
    assert answer.headers["content-type"] == f"image/{wanted}"
    assert (opened(answer).format, opened(answer).size) == (kind, (round(102.5), round(57.5)))


async def test_a_job_can_be_fetched_later_and_gives_the_same_bytes(client, service):
    at_once = await client.post("/v1/upscale", files={"image": ("a.png", photo())})
    accepted = await client.post(
        "/v1/upscale", files={"image": ("a.png", photo())}, headers={"Prefer": "respond-async, wait=5"}
    )
    assert accepted.status_code == 202
    assert accepted.json().keys() == JOB_FIELDS
    assert accepted.headers["location"] == f"/v1/jobs/{accepted.json()['id']}"

    async with asyncio.timeout(60), Queue.of(service.settings) as queue:
        await queue.wait(accepted.json()["id"])
    job = (await client.get(accepted.headers["location"])).json()
    assert job.keys() == JOB_FIELDS
    assert job["state"] == "succeeded"
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert job["tiles_done"] == job["tiles_total"] > 0
    result = await client.get(accepted.headers["location"] + "/result")
    assert result.content == at_once.content


async def test_models_and_readiness_and_metrics(client):
    listed = (await client.get("/v1/models")).json()
    names = [model["name"] for model in listed["models"]]
    assert listed["default"] in names
    await client.post("/v1/upscale", files={"image": ("a.png", photo())}, data={"model": names[-1]})
    assert (await client.get("/readyz")).json()["status"] == "ready"
    metrics = (await client.get("/metrics")).text
    for line in (
        f'omgsr_images_total{{model="{names[-1]}",state="succeeded"}}',
        f'omgsr_stage_duration_seconds_count{{model="{names[-1]}",stage="predict"}}',
        f'omgsr_queue_wait_seconds_count{{model="{names[-1]}"}}',
        f'omgsr_request_duration_seconds_count{{code="200",model="{names[-1]}",transport="rest"}}',
        f'omgsr_output_megapixels_total{{model="{names[-1]}"}}',
        f'omgsr_queue_depth{{model="{names[-1]}"}} 0.0',
        "omgsr_workers_alive 1.0",
    ):
        assert line in metrics
