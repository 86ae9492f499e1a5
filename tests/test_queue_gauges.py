"""What the API tells of the queue in /metrics: a real API, a real server behind it."""

import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from service.queue.queue import Queue
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api
from tests.pictures import photo

ASYNC = {"Prefer": "respond-async"}
MODEL = VARIANT.name


@pytest.fixture
def api() -> Iterator[LoneApi]:
    given = {"OMGSR_ADMIN_PORT": "0", "OMGSR_MAX_STORED_BYTES": "5000000"}
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder), **given) as started:
        yield started


async def gauges(api: LoneApi) -> dict[str, float]:
    """By name and, where there is one, by model."""
    async with httpx.AsyncClient(base_url=api.admin, timeout=60) as client:
        text = (await client.get("/metrics")).raise_for_status().text
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.keys() <= {"model"}
    }


async def test_the_age_is_that_of_the_oldest_job_that_waits(api):
    age = f"omgsr_queue_age_seconds {MODEL}"
    async with api.queue() as queue, httpx.AsyncClient(base_url=api.url, timeout=30) as client:
        await queue.register("the test", [VARIANT], ttl_s=600)
        assert (await gauges(api))[age] == 0

        ids = []
        for priority in ("0", "9"):  # the younger one is next in line
            answer = await client.post(
                "/v1/upscale", files={"image": photo()}, data={"priority": priority}, headers=ASYNC
            )
            ids.append(answer.raise_for_status().json()["id"])
        older, younger = [(await queue.status(each)).created_at for each in ids]
        both = (await gauges(api))[age]
        assert both >= younger - older > 0

        leased = await first_lease(queue)
        assert leased.job.id == ids[1]
        assert (await gauges(api))[age] > both
        await queue.cancel(ids[0])
        assert (await gauges(api))[age] == 0

        assert await queue.release(ids[1], leased.attempt)  # it waits again, since its submission
        assert (await gauges(api))[age] > 0
        await queue.cancel(ids[1])
        assert (await gauges(api))[age] == 0


async def test_memory_and_bounds_are_those_of_the_server_and_of_the_settings(api):
    async with api.queue() as queue, Redis.from_url(api.server.url) as server:
        told = await gauges(api)
        assert (told["omgsr_queue_up"], told["omgsr_queue_memory_limit_bytes"]) == (1, 0)
        assert told["omgsr_stored_limit_bytes"] == 5_000_000

        await server.config_set("maxmemory", 2**30)
        await server.setrange("ballast", 2**24 - 1, b"x")  # the server's memory alone: nothing so large is sent
        now = await gauges(api)
        assert now["omgsr_queue_memory_limit_bytes"] == 2**30
        assert now["omgsr_queue_memory_bytes"] - told["omgsr_queue_memory_bytes"] == pytest.approx(2**24, rel=0.5)

        memory = await queue.memory()
        assert memory
        assert memory.used_bytes == pytest.approx((await server.info("memory"))["used_memory"], rel=0.1)


async def test_a_server_that_does_not_tell_its_memory_is_no_fault(api):
    async with Redis.from_url(api.server.url) as server:
        await server.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all", "-info")
        url = api.server.url.replace("unix://", "unix://worker:secret@", 1)
        async with Queue(url) as queue:
            assert await queue.memory() is None
            assert (await queue.fleet()).workers == 0


async def test_a_queue_that_is_away_is_told_as_such_and_nothing_is_made_up(api):
    async with api.queue() as queue:
        await queue.register("the test", [VARIANT], ttl_s=600)
        assert (await gauges(api))["omgsr_workers_alive"] == 1
    api.server.stop()
    told = await gauges(api)
    assert (told["omgsr_queue_up"], told["omgsr_workers_alive"]) == (0, 0)
    for unknown in ("omgsr_stored_bytes", "omgsr_dead_letters_kept", "omgsr_queue_memory_bytes"):
        assert math.isnan(told[unknown])
    assert not [name for name in told if name.endswith(MODEL)]

    api.server.start()
    back = await gauges(api)
    assert (back["omgsr_queue_up"], back["omgsr_workers_alive"], back["omgsr_stored_bytes"]) == (1, 1, 0)
