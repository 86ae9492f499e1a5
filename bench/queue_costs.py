"""What each call of the queue costs its server: seconds of the server's main thread, measured on a real one."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from redis.asyncio import Redis

from service.job import Job, Result, UpscaleOptions, VariantInfo
from service.queue.embedded import EmbeddedServer
from service.queue.queue import Queue

JOBS = 4000
AT_ONCE = 16
READERS = 40
ENTRIES = 250
VARIANT = VariantInfo(
    name="m", family="sd", base="b", mid_timestep=1, native_size=512, process_size=512, license="-", color_fix="adain"
)
RESULT = Result(key="0" * 40, mime_type="image/png", width=512, height=512, bytes=9, seconds=dict.fromkeys("abcd", 0.1))


@dataclass(frozen=True)
class Costs:
    """Seconds of the server's main thread for one call; bytes of its memory for one job."""

    submit: float
    status: float
    lease: float
    lease_nothing: float
    progress: float
    finish: float
    renew: float
    register: float
    reclaim: float
    wake: float
    """One process that waits for news is told of one entry, and waits again."""
    entry: float
    """Each further entry that it is told at once."""
    waiting_bytes: float
    """Of a job in line; a finished one takes about as much until its time to live is over."""


@asynccontextmanager
async def server() -> AsyncIterator[tuple[Queue, "Redis[str]"]]:
    with tempfile.TemporaryDirectory(prefix="omgsr-") as folder, EmbeddedServer(Path(folder)) as embedded:
        async with Queue(embedded.url) as queue, Redis.from_url(embedded.url, decode_responses=True) as to:
            yield queue, to


async def measured() -> Costs:
    """All of them, with 4,000 jobs of 16 clients, each call by itself."""
    async with server() as (queue, to):
        await queue.register("w", [VARIANT], 1e6)
        names = [uuid4().hex for _ in range(JOBS)]
        empty = await _memory(to)
        found = {"submit": await _each(to, [lambda name=name: queue.submit(_job(name)) for name in names])}
        found["waiting_bytes"] = (await _memory(to) - empty) / JOBS
        found["status"] = await _each(to, [lambda name=name: queue.status(name) for name in names])
        found["lease"] = await _each(to, [lambda: queue.lease(["m"], "w", 1)] * JOBS)
        found["lease_nothing"] = await _each(to, [lambda: queue.lease(["m"], "w", 1)] * JOBS)
        found["progress"] = await _each(to, [lambda name=name: queue.progress(name, 1, 1, 1) for name in names])
        found["renew"] = await _each(to, [lambda: queue.renew(dict.fromkeys(names[:8], 1))] * JOBS)
        found["finish"] = await _each(to, [lambda name=name: queue.finish(name, 1, RESULT) for name in names])
        found["register"] = await _each(to, [lambda: queue.register("w", [VARIANT], 1e6)] * JOBS)
        found["reclaim"] = await _each(to, [queue.reclaim] * JOBS)
        found["wake"], found["entry"] = await _wakes(to)
        return Costs(**found)


def _job(name: str) -> Job:
    options, client = UpscaleOptions(model="m"), f"client {int(name, 16) % 16}"
    return Job(id=name, options=options, width=128, height=128, input_key=f"{name}/input", client=client)


async def _each(to: "Redis[str]", calls: Sequence[Callable[[], Awaitable[object]]]) -> float:
    before, gate = await _main_thread(to), asyncio.Semaphore(AT_ONCE)

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        async with gate:
            await call()

    await asyncio.gather(*map(one, calls))
    return (await _main_thread(to) - before) / len(calls)


async def _wakes(to: "Redis[str]") -> tuple[float, float]:
    """Readers that wait for every entry, then one read of all of them; the entries' own making taken off."""
    adding = await _each(to, [lambda: to.xadd("quiet", {"id": "0" * 32})] * ENTRIES)

    async def follow() -> None:
        after = "0"
        while not after.startswith("last"):
            [(_, entries)] = await to.xread({"news": after}, block=5000)
            after = "last" if entries[-1][1]["id"] == "last" else entries[-1][0]

    before, readers = await _main_thread(to), [asyncio.create_task(follow()) for _ in range(READERS)]
    for number in range(ENTRIES):
        await to.xadd("news", {"id": "last" if number == ENTRIES - 1 else "0" * 32})
        await asyncio.sleep(0.004)  # so that each is told by itself
    await asyncio.gather(*readers)
    wake = (await _main_thread(to) - before - adding * ENTRIES) / (READERS * ENTRIES)
    whole = await _each(to, [lambda: to.xread({"news": "0"})] * 200)
    return wake, whole / ENTRIES


async def _main_thread(to: "Redis[str]") -> float:
    told = await to.info("cpu")
    return float(told["used_cpu_user_main_thread"]) + float(told["used_cpu_sys_main_thread"])


async def _memory(to: "Redis[str]") -> float:
    return float((await to.info("memory"))["used_memory"])
