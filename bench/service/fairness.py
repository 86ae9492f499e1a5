"""What one client's flood does to another's photo, and whether Retry-After tells the truth (stub device)."""

import asyncio
import tempfile
import time
from pathlib import Path

import httpx

from bench.service.load import Seen, photos, rest
from bench.table import Table
from service.api.keyfile import ApiKey, changed_keys
from tests.running import StubService, running_stub

FLOOD = 1000


def made_keys(path: Path, names: list[str]) -> dict[str, str]:
    """A new file of API keys, and the keys by their client's name."""
    found = {}
    with changed_keys(path) as records:
        for name in names:
            record, found[name] = ApiKey.made(name, weight=1, per_minute=None, max_active=None, max_priority=0)
            records.append(record)
    return found


async def measure(calm_jobs: float) -> Table:
    """A calm client alone, then beside a flood of 1,000 jobs; then a refusal's Retry-After against the truth."""
    table = Table(
        "Fair sharing and Retry-After (stub device)",
        "python -m bench.service fairness",
        ("run", "jobs", "p50 s", "p95 s"),
    )
    (photo,) = photos(1, (16, 16))
    with tempfile.TemporaryDirectory(prefix="omgsr-") as folder:
        state = Path(folder)
        keys = made_keys(state / "keys.json", ["calm", "flood"])
        with running_stub(state, OMGSR_API_KEYS=str(state / "keys.json")) as service:
            async with _client(service.url, keys["calm"]) as calm, _client(service.url, keys["flood"]) as flood:
                alone = await _one_by_one(calm, photo, calm_jobs)
                table.rows.append(("a calm client on an idle service", round(calm_jobs), *_percentiles(alone)))
                await _flood(flood, photo, FLOOD)
                beside = await _one_by_one(calm, photo, calm_jobs)
                left = await _waiting(service)
                row = f"the same beside {FLOOD} waiting jobs of another, of which {left} were left"
                table.rows.append((row, round(calm_jobs), *_percentiles(beside)))
                ratio = beside.percentile(0.95) / alone.percentile(0.95)
                said = f"its p95 is {ratio:.2f}× that of an idle service (at most 2×), batches of 4 as by default"
                table.claim(said, holds=ratio <= 2 and left > 0)
    table.rows.append(await _retry_after(table, photo))
    return table


async def _retry_after(table: Table, photo: bytes) -> tuple[str, int, float, float]:
    """Fill the line, be refused, then try once a tenth of a second until it is taken."""
    with (
        tempfile.TemporaryDirectory(prefix="omgsr-") as state,
        running_stub(Path(state), OMGSR_MAX_BATCH="8", OMGSR_MAX_WAITING="1500") as service,
    ):
        async with _client(service.url, "") as client:
            await _flood(client, photo, 300)
            await asyncio.sleep(2)  # the learned cost settles
            told, began = await _refused(client, photo), time.perf_counter()
            room = 1500 * 0.9
            while await _waiting(service) > room:
                await asyncio.sleep(0.05)
            truth = time.perf_counter() - began
    table.claim(
        f"Retry-After said {told:.0f} s; a tenth of the line was free after {truth:.1f} s (within ±30 %, or a second)",
        holds=abs(told - truth) <= max(0.3 * truth, 1.0),
    )
    return ("Retry-After of a full line of 1,500: said, true (s)", 1, told, truth)


async def _waiting(service: StubService) -> int:
    async with service.queue() as queue:
        return sum((await queue.fleet()).depth.values())


async def _refused(client: httpx.AsyncClient, photo: bytes) -> float:
    """Submit until the line is full, quicker than it empties; what Retry-After says then."""
    while True:
        for answer in await asyncio.gather(*(_submit(client, photo) for _ in range(64))):
            if answer.status_code == 429:
                return float(answer.headers["retry-after"])


def _client(url: str, key: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=64)
    return httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=120)


async def _submit(client: httpx.AsyncClient, photo: bytes) -> httpx.Response:
    headers = {"Content-Type": "image/jpeg", "Prefer": "respond-async"}
    return await client.post("/v1/upscale", params={"format": "jpeg"}, content=photo, headers=headers)


async def _flood(client: httpx.AsyncClient, photo: bytes, count: int) -> None:
    gate = asyncio.Semaphore(16)

    async def one() -> None:
        async with gate:
            answer = await _submit(client, photo)
            assert answer.status_code == 202, answer.text

    await asyncio.gather(*(one() for _ in range(count)))


async def _one_by_one(client: httpx.AsyncClient, photo: bytes, count: float) -> Seen:
    seen, send = Seen(), rest(client, format="jpeg")
    began = time.perf_counter()
    for _ in range(round(count)):
        await send(photo, seen)
    seen.lasted_s = time.perf_counter() - began
    return seen


def _percentiles(seen: Seen) -> tuple[float, float]:
    return seen.percentile(0.5), seen.percentile(0.95)
