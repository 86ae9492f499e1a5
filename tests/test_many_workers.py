"""Four workers on one queue: they share the work, and whichever of them is killed loses nothing."""

import asyncio
from pathlib import Path

from service.job import JobState
from service.queue.queue import Queue
from tests.running import Part, running_stub
from tests.stub_jobs import TILES_20, ends, submit

JOBS = 16
FOUR = {"workers": 4, "OMGSR_LEASE_S": "2", "OMGSR_MAX_ATTEMPTS": "6"}


async def holds_work_half_done(worker: Part, queue: Queue) -> None:
    mine = f"-{worker.process.pid}-"
    async with asyncio.timeout(30):
        while not any(job.tiles_done for job in await queue.active() if mine in job.worker):
            await asyncio.sleep(0.01)


async def test_four_workers_share_the_work_and_the_death_of_any_loses_nothing(state: Path) -> None:
    with running_stub(state, **FOUR) as service:
        async with service.queue() as queue:
            job_ids = [await submit(service, queue, TILES_20) for _ in range(JOBS)]
            assert len({each.worker for each in await ends(queue, *job_ids)}) == len(service.workers)

            job_ids = [await submit(service, queue, TILES_20) for _ in range(JOBS)]
            for victim in list(service.workers):
                await holds_work_half_done(victim, queue)
                victim.process.kill()
                victim.process.wait()
            service.add_worker()
            done = await ends(queue, *job_ids)
            assert {each.state for each in done} == {JobState.SUCCEEDED}
            assert max(each.attempt for each in done) > 1
            for name in job_ids:
                assert [event.kind async for event in queue.events(name) if event.final] == ["succeeded"]
