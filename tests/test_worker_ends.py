"""How a worker's life ends: its device hangs or is out of memory, or it is told to stop. No job is lost by it."""

import asyncio
import signal
from pathlib import Path

import httpx

from service.job import JobState
from tests.running import Part, running_stub
from tests.stub_jobs import ENDS_S, TILE, TILES_20, ends, submit
from tests.stub_worker import GREEDY, STUCK

SETTINGS = {"OMGSR_WORKER_PORT": "0", "OMGSR_LEASE_S": "3"}


async def answers(worker: Part, path: str, status: int) -> httpx.Response:
    """Ask until the listener answers with the status."""
    async with httpx.AsyncClient(base_url=worker.listener) as client, asyncio.timeout(ENDS_S):
        while (answer := await client.get(path)).status_code != status:
            await asyncio.sleep(0.02)
    return answer


async def exit_status(worker: Part) -> int:
    return await asyncio.to_thread(worker.process.wait, ENDS_S)


async def test_a_worker_whose_device_hangs_is_unhealthy_and_its_jobs_are_done_by_another(state: Path) -> None:
    with running_stub(state, OMGSR_WATCHDOG_S="2", **SETTINGS) as service:
        (worker,) = service.workers
        async with service.queue() as queue:
            hanging, innocent = await submit(service, queue, STUCK), await submit(service, queue, TILE)
            await answers(worker, "/livez", 503)
            assert httpx.get(f"{worker.listener}/readyz").status_code == 503
            assert await queue.workers_alive() == 0
            await queue.cancel(hanging)
            service.add_worker(OMGSR_WATCHDOG_S="60")
            (done,) = await ends(queue, innocent)
            assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
        assert await exit_status(worker) == 1  # so that it is started again


async def test_an_image_that_wants_too_much_memory_fails_alone_and_three_in_a_row_end_the_worker(state: Path) -> None:
    with running_stub(state, **SETTINGS) as stub:
        async with stub.queue() as queue:
            (worker,) = stub.workers
            both = [await submit(stub, queue, size) for size in (GREEDY, TILE)]
            failed, done = await ends(queue, *both)
            assert done.state is JobState.SUCCEEDED
            assert failed.error
            assert (failed.error.type, failed.attempt) == ("urn:omgsr:problem:out-of-memory", 1)
            assert "smaller" in failed.error.advice
            assert worker.process.poll() is None
            three = [await submit(stub, queue, GREEDY) for _ in range(3)]
            assert [each.state for each in await ends(queue, *three)] == [JobState.FAILED] * 3
            assert await exit_status(worker) == 1
            worker.log.find("3 images in a row ran out of device memory")
            assert await queue.workers_alive() == 0
            given_back = await submit(stub, queue, TILE)
            stub.add_worker()
            assert (await ends(queue, given_back))[0].state is JobState.SUCCEEDED


async def test_a_worker_told_to_stop_under_load_is_unready_at_once_and_fails_nothing(state: Path) -> None:
    with running_stub(state, workers=2, **SETTINGS) as service:
        leaving, staying = service.workers
        async with service.queue() as queue:
            jobs = [await submit(service, queue, TILES_20) for _ in range(12)]
            async with asyncio.timeout(ENDS_S):
                while len({(await queue.status(each)).worker for each in jobs} - {""}) < 2:
                    await asyncio.sleep(0.01)
            leaving.process.send_signal(signal.SIGTERM)
            await answers(leaving, "/readyz", 503)
            assert await queue.workers_alive() == 1
            done = await ends(queue, *jobs)
        assert [(each.state, each.attempt) for each in done] == [(JobState.SUCCEEDED, 1)] * len(jobs)
        assert len({each.worker for each in done}) == 2, "one worker took all"
        assert await exit_status(leaving) == 0
        assert staying.process.poll() is None
