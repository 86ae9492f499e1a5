"""What batching across requests gives on the stub device, which takes 20 + 5·n ms for a batch of n ops."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from bench.service.load import Send, closed_loop, open_loop, photos, rest
from bench.service.table import Table
from tests.running import StubService, running_stub

MAX_WAIT_S = 0.02
BATCH_S = (20 + 5 * 8) / 1000
CLIENTS = 64


@asynccontextmanager
async def stub(max_batch: int, **given: str) -> AsyncIterator[tuple[Send, StubService]]:
    """One stub worker behind a real API and queue, and a client of it."""
    with (
        tempfile.TemporaryDirectory(prefix="omgsr-") as state,
        running_stub(Path(state), OMGSR_MAX_BATCH=str(max_batch), **given) as service,
    ):
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
        async with httpx.AsyncClient(base_url=service.url, limits=limits) as client:
            yield rest(client, format="jpeg"), service


async def measure(lasts_s: float) -> Table:
    """Throughput against one at a time, fill, and what happens below and above the limit."""
    table = Table(
        "Batching across requests (stub device)",
        "python -m bench.service batching",
        ("run", "images/s", "429", "p50 s", "p99 s", "p99 queue wait s", "mean fill of Predict"),
    )
    one_size, mixed = photos(1, (16, 16)), photos(40, (40, 64))

    async def saturated(name: str, max_batch: int, files: list[bytes]) -> tuple[float, float]:
        async with stub(max_batch) as (send, service):
            seen = await closed_loop(send, files, CLIENTS, lasts_s)
            fill = service.mean_batch("predict") / max_batch
            table.rows.append(_row(name, seen, fill))
            return seen.throughput, fill

    alone, _ = await saturated("64 clients, one size, one at a time", 1, one_size)
    together, _ = await saturated("64 clients, one size, batches of 8", 8, one_size)
    table.claim(
        f"batches of 8 give {together / alone:.2f}× one at a time (at least 2.5×)", holds=together >= 2.5 * alone
    )
    mixed_alone, _ = await saturated("64 clients, 40 sizes, one at a time", 1, mixed)
    mixed_together, fill = await saturated("64 clients, 40 sizes, batches of 8", 8, mixed)
    table.claim(f"40 mixed sizes fill Predict's batches to {100 * fill:.0f} % (at least 80 %)", holds=fill >= 0.8)
    gain = mixed_together / mixed_alone
    table.claim(
        f"40 mixed sizes: {gain:.2f}× one at a time; only their tiles share batches, not Encode and Decode",
        holds=gain > 1,
    )

    async with stub(8) as (send, _):
        seen = await open_loop(send, one_size, 0.7 * together, lasts_s)
        wait = _queue_wait(seen)
        table.rows.append(_row("0.7 × capacity, one size", seen, float("nan")))
        table.claim("no 429 at 0.7 load", holds=seen.codes["429"] == 0)
        bound = MAX_WAIT_S + 3 * BATCH_S
        table.claim(
            f"at 0.7 load p99 wait {wait:.3f} s is at most maximum wait + 3 batches ({bound:.3f} s)",
            holds=wait <= bound,
        )

    async with stub(8, OMGSR_MAX_WAITING="200") as (send, _):
        seen = await open_loop(send, one_size, 2 * together, lasts_s)
        table.rows.append(_row("2 × capacity, one size, 200 may wait", seen, float("nan")))
        goodput = seen.throughput / together
        table.claim(f"at 2× load goodput is {100 * goodput:.0f} % of capacity (at least 90 %)", holds=goodput >= 0.9)
    return table


def _queue_wait(seen) -> float:
    waits = sorted(timing.get("queue_wait", 0.0) for timing in seen.timings)
    return waits[int(0.99 * (len(waits) - 1))] if waits else float("nan")


def _row(name, seen, fill):
    return (
        name,
        seen.throughput,
        seen.codes["429"],
        seen.percentile(0.5),
        seen.percentile(0.99),
        _queue_wait(seen),
        fill,
    )
