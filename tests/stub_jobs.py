"""Jobs for stub workers, put in line by the test itself, and what becomes of them."""

import asyncio
from uuid import uuid4

import httpx
from prometheus_client.parser import text_string_to_metric_families

from model.plan import Size
from service.job import Job, JobStatus, UpscaleOptions
from service.queue.blobs import BlobStore, input_key
from service.queue.queue import Queue
from tests.pictures import photo
from tests.running import Part, StubService

TILE: Size = (16, 16)
TILES_20: Size = (48, 40)
TILES_121: Size = (96, 96)
ENDS_S = 60


async def submit(service: StubService, queue: Queue, size: Size, *, client: str = "anonymous") -> str:
    """Put a photo in line, as the API does, and return its job's id."""
    job_id = uuid4().hex
    BlobStore(service.settings.blobs).put(input_key(job_id), photo(*size))
    options = UpscaleOptions(model="stub")
    width, height = size
    key = input_key(job_id)
    await queue.submit(Job(id=job_id, client=client, options=options, width=width, height=height, input_key=key))
    return job_id


async def ends(queue: Queue, *job_ids: str) -> list[JobStatus]:
    async with asyncio.timeout(ENDS_S):
        return list(await asyncio.gather(*map(queue.wait, job_ids)))


def metrics(worker: Part) -> dict[str, float]:
    """Sums over all labels, by sample name."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{worker.listener}/metrics").text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found
