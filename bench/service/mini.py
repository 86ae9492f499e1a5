"""The bundled mini behind the whole service: load, memory, and what the service adds to the bare pipeline."""

import asyncio
import tempfile
import time
from collections import Counter
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import grpc
import httpx
import psutil
from omgsr.v1 import upscale_pb2_grpc
from PIL import Image

from bench.service.load import Seen, closed_loop, photos, rest, streamed
from bench.table import Table
from service.worker.engine import REST_S
from tests.running import Service, running_service

MINI = Path(__file__).parents[2] / "model" / "weights" / "omgsr-s-mini"
CLIENTS = 64
BATCH = 4
RESTED_S = REST_S + 5
"""By then an idle worker has given back what it needs no more."""


async def load(lasts_s: float) -> Table:
    """64 clients with photos of 40 sizes, first over REST, then over gRPC."""
    table = Table(
        "64 clients on the mini",
        "python -m bench.service load",
        ("transport", "images", "images/s", "p50 s", "p95 s", "p99 s", "answers"),
    )
    files = photos(40, (48, 128))
    with tempfile.TemporaryDirectory(prefix="omgsr-") as state, _served(state) as service:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=service.url, limits=limits) as client:
            await closed_loop(rest(client, format="jpeg"), files, 4, 5)  # what a first request makes is made
            before = await _megabytes(service)
            over_rest = await closed_loop(rest(client, format="jpeg"), files, CLIENTS, lasts_s)
            between = await _megabytes(service)
        async with grpc.aio.insecure_channel(service.grpc) as channel:
            over_grpc = await closed_loop(
                streamed(upscale_pb2_grpc.UpscaleServiceStub(channel)), files, CLIENTS, lasts_s
            )
        after = await _megabytes(service)
    for name, seen in (("REST", over_rest), ("gRPC", over_grpc)):
        table.rows.append(_row(name, seen))
    answers = over_rest.codes + over_grpc.codes
    ids = Counter(over_rest.jobs + over_grpc.jobs)
    table.claim(f"no answer but success and 429: {dict(answers)}", holds=answers.keys() <= {"200", "429", "OK"})
    table.claim("every job ended once, none was lost", holds=max(ids.values()) == 1)
    for process in before:
        grown = after[process] - before[process]
        said = ", ".join(f"{each[process]:.0f}" for each in (before, between, after))
        table.claim(f"memory of the {process} is flat: {said} MB warm, after REST, after gRPC", holds=grown < 100)
    return table


async def overhead(lasts_s: float) -> Table:
    """Images a second of the service at saturation against the bare pipeline."""
    table = Table(
        "What the service adds to the bare pipeline (mini, one thread of torch, 128 px → 512 px)",
        "python -m bench.service overhead",
        ("run", "images/s", "overhead"),
    )
    files = photos(1, (128, 128))
    bare = await asyncio.to_thread(_bare, files[0], lasts_s)
    table.rows.append(("bare pipeline, batches of 4", bare, "–"))
    with tempfile.TemporaryDirectory(prefix="omgsr-") as state, _served(state, OMGSR_THREADS="1") as service:
        async with httpx.AsyncClient(base_url=service.url) as client:
            send = rest(client, format="jpeg")
            await closed_loop(send, files, 2 * BATCH, 5)
            full = await closed_loop(send, files, 3 * BATCH, lasts_s)
            share = 1 - full.throughput / bare
            table.rows.append(("service, 12 clients", full.throughput, f"{100 * share:.1f} %"))
            table.claim(f"at saturation the service costs {100 * share:.1f} % (less than 8 %)", holds=share < 0.08)
    return table


def _served(state: str, **settings: str) -> AbstractContextManager[Service]:
    """With batches of BATCH, and the fastest backend, as by default: tests run without one."""
    return running_service(Path(state), MINI, OMGSR_MAX_BATCH=str(BATCH), OMGSR_BACKEND="auto", **settings)


def _bare(photo: bytes, lasts_s: float) -> float:
    import torch

    from model import OMGSRPipeline
    from model.backend.choose import use_backend

    torch.set_num_threads(1)
    pipe = OMGSRPipeline.from_variant(MINI, dtype=torch.float32, fold=True)  # as a worker loads it
    use_backend(pipe)
    images = [Image.open(BytesIO(photo)).convert("RGB")] * BATCH
    pipe(images, scale=4)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < lasts_s:
        count += len(pipe(images, scale=4))
    return count / (time.perf_counter() - began)


async def _megabytes(service: Service) -> dict[str, float]:
    await asyncio.sleep(RESTED_S)
    return {name: psutil.Process(service.child(name).pid).memory_info().rss / 1e6 for name in ("api", "worker")}


def _row(name: str, seen: Seen) -> tuple[str, int, float, float, float, float, str]:
    answers = ", ".join(f"{code}: {count}" for code, count in sorted(seen.codes.items()))
    return (name, len(seen.seconds), seen.throughput, *(seen.percentile(p) for p in (0.5, 0.95, 0.99)), answers)
