"""How throughput grows with the number of worker processes on one queue (stub device), and who is busy meanwhile."""

import os
import tempfile
from pathlib import Path

import httpx
import psutil

from bench.service.load import Seen, closed_loop, photos, rest
from bench.table import Table
from tests.pictures import photo
from tests.running import StubService, running_stub

WORKERS = (1, 2, 4)
BOUNDS = {2: 1.9, 4: 3.7}
DEVICE_BOUND = "photos of 20 tiles, 24 clients"
LOADS = {
    DEVICE_BOUND: ([photo(48, 40, "JPEG")], 24),
    "photos of 1 tile, 64 clients": (photos(1, (16, 16)), 64),
}
"""Files, and clients that send one after the other. The first are the device's work; the second are the service's, and
say where this machine's cores end, so nothing is claimed of them."""
WARM_S = 3


async def measure(lasts_s: float) -> Table:
    """One, two and four workers behind one API and one server."""
    table = Table(
        "One, two and four workers (stub device)",
        "python -m bench.service scaling",
        ("load", "workers", "images/s", "× one", "p50 s", "p99 s", *(f"{part}, cores" for part in PARTS)),
    )
    for name, (files, clients) in LOADS.items():
        alone = 0.0
        for workers in WORKERS:
            seen, cores = await _run(files, clients, workers, lasts_s)
            alone = alone or seen.throughput
            times = seen.throughput / alone
            figures = (seen.throughput, times, seen.percentile(0.5), seen.percentile(0.99))
            table.rows.append((name, workers, *figures, *cores.values()))
            if name == DEVICE_BOUND and (bound := BOUNDS.get(workers)):
                said = f"{name}: {workers} workers give {times:.2f}× one (at least {bound}×)"
                table.claim(said, holds=times >= bound and seen.codes.keys() == {"200"})
    table.notes.append(f"all of it, the clients too, on {os.cpu_count()} cores")
    return table


PARTS = ("clients", "API", "Redis", "each worker")


async def _run(files: list[bytes], clients: int, workers: int, lasts_s: float) -> tuple[Seen, dict[str, float]]:
    """What the clients saw, and how many cores each part kept busy."""
    with tempfile.TemporaryDirectory(prefix="omgsr-") as state, running_stub(Path(state), workers) as service:
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx.AsyncClient(base_url=service.url, limits=limits, trust_env=False) as client:
            send = rest(client, format="jpeg")
            await closed_loop(send, files, clients, WARM_S)
            before = _cpu_seconds(service)
            seen = await closed_loop(send, files, clients, lasts_s)
            used = _cpu_seconds(service)
    return seen, {part: (used[part] - before[part]) / seen.lasted_s for part in PARTS}


def _cpu_seconds(service: StubService) -> dict[str, float]:
    assert service.server.process
    pids = [[os.getpid()], [service.api.process.pid], [service.server.process.pid]]
    pids.append([worker.process.pid for worker in service.workers])
    return {part: sum(map(_spent, those)) / len(those) for part, those in zip(PARTS, pids, strict=True)}


def _spent(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
