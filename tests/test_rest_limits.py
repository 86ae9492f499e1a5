"""What is over a bound is refused with the time to come back, is counted, and leaves nothing behind."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from typer.testing import CliRunner

from service.keys_cli import keys_app
from service.queue.queue import Queue
from tests.lone_api import VARIANT, LoneApi, lone_api
from tests.pictures import photo
from tests.problems import check_problem

BOUNDS = {
    "OMGSR_MAX_WAITING": "3",
    "OMGSR_MAX_CLIENT_WAITING": "3",
    "OMGSR_MAX_STORED_BYTES": "9000",
}
KEYS = {"wide": [], "rated": ["--per-minute", "2"], "narrow": ["--max-active", "1"]}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="omgsr-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, dict[str, str]]:
    made = {}
    for name, options in KEYS.items():
        done = CliRunner().invoke(keys_app, ["new", name, *options, "--file", str(folder / "keys.json")])
        made[name] = {"Authorization": f"Bearer {done.output.strip()}", "Prefer": "respond-async"}
    return made


@pytest.fixture(scope="module")
def api(folder: Path, keys: dict[str, dict[str, str]]) -> Iterator[LoneApi]:
    with lone_api(folder, OMGSR_API_KEYS=str(folder / "keys.json"), **BOUNDS) as started:
        yield started
        assert "Traceback" not in started.said


@pytest.fixture
async def queue(api: LoneApi) -> AsyncIterator[Queue]:
    async with api.queue() as made:
        await made.register("the test", [VARIANT], ttl_s=600)
        yield made
        for status in await made.active():
            await made.cancel(status.job.id)


@pytest.fixture
async def client(api: LoneApi, queue: Queue) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as made:
        yield made


async def refused(client: httpx.AsyncClient, headers: dict[str, str], slug: str, data: bytes = b"") -> int:
    """The refusal that comes, once as many are taken as may; how many were taken before it."""
    for taken in range(10):
        answer = await client.post("/v1/upscale", files={"image": data or photo()}, headers=headers)
        if answer.status_code == 429:
            check_problem(answer, 429, slug)
            assert answer.json()["retry_after_s"] == int(answer.headers["retry-after"]) >= 1
            return taken
        assert answer.status_code == 202, answer.text
    raise AssertionError("nothing is refused")


async def test_each_bound_is_told_by_its_name_and_counted(api, client, queue, keys):
    assert await refused(client, keys["narrow"], "share-full") == 1
    assert await refused(client, keys["wide"], "queue-full") == 2
    metrics = (await client.get("/metrics")).text
    for reason in ("share-full", "queue-full"):
        assert f'omgsr_rejected_total{{reason="{reason}"}} 1.0' in metrics
    kept = {path.parent.name for path in Path(api.settings.blobs).rglob("input")}
    assert kept == await queue.exists(kept)
    assert len(kept) == 3


async def test_one_client_s_share_of_the_line(client, queue, keys):
    assert await refused(client, keys["wide"], "share-full") == 3


async def test_a_key_s_rate(client, queue, keys):
    assert await refused(client, keys["rated"], "rate-exceeded") == 2


async def test_a_full_store(client, queue, keys):
    heavy = photo(900, 700)
    assert await refused(client, keys["wide"], "storage-full", heavy) < 3
