"""What is left of many jobs when their time is over: nothing (stub device)."""

import asyncio
from pathlib import Path

import httpx
from redis.asyncio import Redis

from service.job import JobState
from tests.pictures import photo
from tests.running import running_stub
from tests.soak import times

TTL_S = times(15, 3)
SMALL = photo(8, 8)
AT_ONCE = 64
LASTING = {
    *("workers", "variants", "variants:known", "serving:stub", "arrivals", "ended"),
    *("totals", "learned", "vtime", "tags:0", "listing"),
}
"""Keys that do not grow with the number of jobs."""


async def test_many_jobs_leave_nothing(state: Path) -> None:
    with running_stub(state, workers=1, OMGSR_MAX_BATCH="8", OMGSR_RESULT_TTL_S=str(TTL_S)) as service:
        gate = asyncio.Semaphore(AT_ONCE)
        async with (
            httpx.AsyncClient(base_url=service.url, timeout=120, trust_env=False) as client,
            Redis.from_url(service.server.url, decode_responses=True) as server,
        ):

            async def one() -> int:
                async with gate:
                    headers = {"Content-Type": "image/png"}
                    return (await client.post("/v1/upscale", content=SMALL, headers=headers)).status_code

            count = times(20_000, 400)
            codes = await asyncio.gather(*(one() for _ in range(count)))
            assert codes == [200] * count
            async with asyncio.timeout(60 + TTL_S):
                while await _left(server) or _files(service.settings.blobs):
                    await asyncio.sleep(0.2)


async def _left(server: Redis) -> set[str]:
    names = {key.partition(":")[2] async for key in server.scan_iter(count=1000)}
    return names - LASTING


def _files(folder: str) -> list[Path]:
    return [path for path in Path(folder).rglob("*") if path.is_file()]


async def test_an_expired_job_costs_no_device_time(state: Path) -> None:
    with running_stub(state, workers=1, OMGSR_MAX_BATCH="1") as service:
        async with (
            httpx.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as client,
            service.queue() as queue,
        ):
            headers = {"Content-Type": "image/png", "Prefer": "respond-async"}
            long = [await client.post("/v1/upscale", content=photo(64, 60), headers=headers) for _ in range(6)]
            hasty = await client.post("/v1/upscale", params={"deadline_s": 0.3}, content=SMALL, headers=headers)
            assert {answer.status_code for answer in [*long, hasty]} == {202}
            status = await queue.wait(hasty.json()["id"])
            assert (status.state, status.attempt, status.started_at) == (JobState.FAILED, 0, None)
            assert status.error is not None
            assert status.error.status == 504
            assert (await client.get(f"/v1/jobs/{status.job.id}/result")).status_code == 504
