"""What batching across requests gives on the stub device, which takes 20 + 5·n ms for a batch of n ops."""

import math
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
from prometheus_client.metrics_core import Sample
from prometheus_client.parser import text_string_to_metric_families

from bench.service import optimum
from bench.service.ideal import batch_s
from bench.service.ideal import requests as ideal_requests
from bench.service.load import Seen, Send, closed_loop, open_loop, photos, rest
from bench.table import Table
from service.worker.batching import Policy
from tests.running import StubService, running_stub

MAX_WAIT_S = 0.02
BATCH_S = batch_s(8)
WAIT_S = MAX_WAIT_S + 3 * BATCH_S
OPS = 3
"""Of an image of one tile: Encode, Predict, Decode."""
NEAR = 1.2
"""Times the seconds of a server without HTTP, files and queue: what counts as near it."""
CLIENTS = 64
ONE_TILE, MIXED = photos(1, (16, 16)), photos(40, (40, 64))


@asynccontextmanager
async def stub(max_batch: int, **given: str) -> AsyncIterator[tuple[Send, StubService]]:
    """One stub worker behind a real API and queue, and a client of it."""
    with (
        tempfile.TemporaryDirectory(prefix="omgsr-") as state,
        running_stub(Path(state), OMGSR_MAX_BATCH=str(max_batch), OMGSR_WORKER_PORT="0", **given) as service,
    ):
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
        async with httpx.AsyncClient(base_url=service.url, limits=limits) as client:
            yield rest(client, format="jpeg"), service


async def measure(lasts_s: float) -> Table:
    """Throughput against one at a time, fill, and what happens below and above the limit."""
    table = Table(
        "Batching across requests (stub device)",
        "python -m bench.service batching",
        ("run", "images/s", "429", "p50 s", "p99 s", "p99 wait s", "mean fill of Predict"),
    )
    alone, _ = await _saturated(table, "64 clients, one size, one at a time", 1, ONE_TILE, lasts_s)
    together, _ = await _saturated(table, "64 clients, one size, batches of 8", 8, ONE_TILE, lasts_s)
    gain = together / alone
    table.claim(f"batches of 8 give {gain:.2f}× one at a time (at least 2.5×)", holds=gain >= 2.5)
    alone, _ = await _saturated(table, "64 clients, 40 sizes of 20 tiles and more, one at a time", 1, MIXED, lasts_s)
    mixed, fill = await _saturated(table, "the same, batches of 8", 8, MIXED, lasts_s)
    gain = mixed / alone
    table.claim(f"40 mixed sizes: {gain:.2f}× one at a time (at least 2.5×)", holds=gain >= 2.5)
    table.claim(f"40 mixed sizes fill Predict's batches to {100 * fill:.0f} % (at least 80 %)", holds=fill >= 0.8)
    await _below(table, 0.7 * together, lasts_s)
    await _above(table, together, lasts_s)
    return table


async def _saturated(
    table: Table, name: str, max_batch: int, files: list[bytes], lasts_s: float
) -> tuple[float, float]:
    async with stub(max_batch) as (send, service):
        seen = await closed_loop(send, files, CLIENTS, lasts_s)
        fill = _mean_fill(service)
    table.rows.append(_row(name, seen, fill))
    return seen.throughput, fill


async def _below(table: Table, per_second: float, lasts_s: float) -> None:
    async with stub(8) as (send, service):
        seen = await open_loop(send, ONE_TILE, per_second, lasts_s)
        table.rows.append(_row("0.7 × capacity, one size, at random moments", seen, _mean_fill(service)))
        in_time = _share_in_time(service)
    table.claim("no 429 at 0.7 load", holds=seen.codes["429"] == 0)
    wait = _wait(seen)
    table.claim(
        f"at 0.7 load the p99 wait, {wait:.3f} s, is at most the maximum wait + 3 batches, {WAIT_S:.3f} s",
        holds=wait <= WAIT_S,
    )
    ideal = ideal_requests(per_second, Policy(8, MAX_WAIT_S))
    least = Seen(seconds=[each.seconds for each in ideal], lasted_s=len(ideal) / per_second)
    table.rows.append(_row("the same, simulated: a server that loses no time", least, math.nan))
    table.claim(
        f"at 0.7 load a request's p99, {seen.percentile(0.99):.3f} s, is at most {NEAR:g}× that of a server that makes "
        f"the same choices and loses no time, {least.percentile(0.99):.3f} s",
        holds=seen.percentile(0.99) <= NEAR * least.percentile(0.99),
    )
    its_own = 0.7 * 8 / (OPS * BATCH_S)
    at_its_own = Seen([each.seconds for each in ideal_requests(its_own, Policy(8, MAX_WAIT_S))])
    best, best_at_its_own = (_wait(Seen(optimum.seconds(rate))) for rate in (per_second, its_own))
    table.notes.append(
        f"A request waits three times, the bound of {WAIT_S:g} s is one op's. Its p99 less three full batches is "
        f"{wait:.3f} s here; of a server that loses no time {_wait(least):.3f} s at the same images/s, and "
        f"{_wait(at_its_own):.3f} s at 0.7 of its own capacity, {its_own:.1f} images/s. With the best choice of "
        f"batches that there is (bench/service/optimum.py) it has {best:.3f} and {best_at_its_own:.3f} s."
    )
    table.claim(
        f"at 0.7 load {100 * in_time:.2f} % of the ops waited at most the maximum wait + 3 batches, {WAIT_S:g} s, for "
        "their batch (at least 99 %)",
        holds=in_time >= 0.99,
    )


async def _above(table: Table, capacity: float, lasts_s: float) -> None:
    async with stub(8, OMGSR_MAX_WAITING="200") as (send, service):
        seen = await open_loop(send, ONE_TILE, 2 * capacity, lasts_s)
        table.rows.append(_row("2 × capacity, one size, 200 may wait", seen, _mean_fill(service)))
    goodput = 100 * seen.throughput / capacity
    table.claim(f"at 2 × load goodput is {goodput:.0f} % of capacity (at least 90 %)", holds=goodput >= 90)


def _wait(seen: Seen) -> float:
    """p99 of what of a request is not its own three batches: HTTP and file codecs count as waiting here."""
    return float(np.percentile(seen.seconds, 99)) - OPS * BATCH_S if seen.seconds else math.nan


def _row(name: str, seen: Seen, fill: float) -> tuple[str, float, int, float, float, float, float]:
    return (
        *(name, seen.throughput, seen.codes["429"], seen.percentile(0.5), seen.percentile(0.99)),
        *(max(0.0, _wait(seen)), fill),
    )


def _mean_fill(service: StubService) -> float:
    sums = Counter[str]()
    for sample in _samples(service, "omgsr_batch_fill_ratio"):
        if sample.labels["stage"] == "predict":
            sums[sample.name.rpartition("_")[2]] += sample.value
    return sums["sum"] / sums["count"] if sums["count"] else math.nan


def _share_in_time(service: StubService) -> float:
    """Of the ops of all stages: those whose batch began within WAIT_S."""
    waited = Counter[str]()
    for sample in _samples(service, "omgsr_batch_wait_seconds"):
        waited[sample.labels.get("le", sample.name)] += sample.value
    return waited[f"{WAIT_S:g}"] / waited["+Inf"]


def _samples(service: StubService, metric: str) -> list[Sample]:
    told = httpx.get(f"{service.workers[0].listener}/metrics").text
    return next(each.samples for each in text_string_to_metric_families(told) if each.name == metric)
