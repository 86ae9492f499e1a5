"""API keys: made and revoked by the command, known by their digests alone, each with its limits and its own jobs."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from typer.testing import CliRunner

from service.api.auth import Keys
from service.api.keyfile import KeysUnreadable, changed_keys, digest_of, read_keys
from service.errors import Unauthenticated
from service.keys_cli import keys_app
from service.queue.limits import Limits
from service.queue.queue import Queue
from tests.lone_api import VARIANT, LoneApi, first_lease, lone_api, start
from tests.pictures import photo
from tests.problems import check_problem

ASYNC = {"Prefer": "respond-async"}


def run(*arguments: str, file: Path) -> str:
    done = CliRunner().invoke(keys_app, [*arguments, "--file", str(file)])
    assert done.exit_code == 0, done.output
    return done.output.strip()


def new(name: str, file: Path, *options: str) -> str:
    return run("new", name, *options, file=file)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# The file, and the command ------------------------------------------------------------------------------------------


def test_a_key_is_printed_once_and_its_digest_alone_is_kept(tmp_path: Path):
    file = tmp_path / "keys.json"
    key = new("shop", file, "--weight", "2.5", "--per-minute", "60", "--max-active", "7", "--max-priority", "3")
    assert key.startswith("omgsr_")
    assert len(key) == len("omgsr_") + 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()
    (kept,) = json.loads(file.read_text())
    assert kept.pop("created") > "2026"
    assert kept == {
        "name": "shop",
        "sha256": digest_of(key),
        "weight": 2.5,
        "per_minute": 60,
        "max_active": 7,
        "max_priority": 3,
    }
    listed = run("list", file=file)
    assert "shop" in listed
    assert kept["sha256"][:8] in listed
    assert key not in listed
    assert list(tmp_path.iterdir()) == [file]


def test_keys_made_at_the_same_time_are_all_kept(tmp_path: Path):
    file = tmp_path / "keys.json"

    def add(number: int) -> None:
        with changed_keys(file) as keys:
            from service.api.keyfile import ApiKey

            keys.append(ApiKey.made(f"c{number}", weight=1, per_minute=None, max_active=None, max_priority=0)[0])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert {key.name for key in read_keys(file)} == {f"c{number}" for number in range(24)}


def test_revoke_takes_one_key_or_all_of_a_client(tmp_path: Path):
    file = tmp_path / "keys.json"
    old, fresh = new("shop", file), new("shop", file)
    other = new("other", file)
    assert "revoked" in run("revoke", digest_of(old)[:8], file=file)
    assert {key.sha256 for key in read_keys(file)} == {digest_of(fresh), digest_of(other)}
    run("revoke", "shop", file=file)
    assert [key.name for key in read_keys(file)] == ["other"]
    before = file.read_bytes()
    wrong = CliRunner().invoke(keys_app, ["revoke", "nobody", "--file", str(file)])
    assert wrong.exit_code == 1
    assert file.read_bytes() == before


@pytest.mark.parametrize("options", [("bad name",), ("shop", "--per-minute", "0"), ("shop", "--weight", "0")])
def test_what_makes_no_key_is_refused_in_words(tmp_path: Path, options):
    done = CliRunner().invoke(keys_app, ["new", *options, "--file", str(tmp_path / "keys.json")])
    assert done.exit_code == 1
    assert "is wrong" in done.output
    assert list(tmp_path.iterdir()) == []


# Who calls ----------------------------------------------------------------------------------------------------------


def test_callers_and_their_limits(tmp_path: Path):
    file, limits = tmp_path / "keys.json", Limits(max_waiting=100, max_client_waiting=10)
    key = new("shop", file, "--weight", "2", "--per-minute", "60", "--max-active", "7")
    keys = Keys(file, limits)
    for authorization in (f"Bearer {key}", f"bearer   {key}", f" BEARER {key} "):
        caller = keys.caller(authorization, "10.0.0.1")
        assert (caller.name, caller.weight, caller.max_priority) == ("shop", 2, 0)
        assert caller.limits == Limits(max_waiting=100, max_client_waiting=10, per_minute=60, max_active=7)
    for wrong in (
        "",
        "Bearer",
        "Bearer x",
        f"Basic {key}",
        key,
        f"Bearer {key}x",
        f"Bearer {digest_of(key)}",
        "Bearer ü",
    ):
        with pytest.raises(Unauthenticated) as refused:
            keys.caller(wrong, "10.0.0.1")
        assert key not in refused.value.detail


def test_without_a_file_callers_go_by_their_addresses():
    caller = Keys(None, Limits(max_waiting=5)).caller("Bearer whatever", "10.0.0.1")
    assert (caller.name, caller.weight, caller.limits) == ("10.0.0.1", 1, Limits(max_waiting=5))


def test_a_changed_file_counts_at_once_and_a_broken_one_not_at_all(tmp_path: Path):
    file = tmp_path / "keys.json"
    first = new("first", file)
    keys = Keys(file, Limits())
    second = new("second", file)
    assert keys.caller(f"Bearer {second}", "").name == "second"
    run("revoke", "first", file=file)
    with pytest.raises(Unauthenticated):
        keys.caller(f"Bearer {first}", "")

    sound = file.read_bytes()
    for broken in (b"", b"{}", b"[{]", b'[{"name": "x"}]', b'[{"name": "x", "sha256": "secret", "created": ""}]'):
        file.write_bytes(broken)
        assert keys.caller(f"Bearer {second}", "").name == "second"
    file.unlink()
    assert keys.caller(f"Bearer {second}", "").name == "second"
    file.write_bytes(sound.replace(b'"second"', b'"renamed"'))
    assert keys.caller(f"Bearer {second}", "").name == "renamed"


def test_a_broken_file_is_named_and_its_content_is_not(tmp_path: Path):
    file = tmp_path / "keys.json"
    file.write_text('[{"name": "x", "sha256": "omgsr_secret", "created": ""}]')
    with pytest.raises(KeysUnreadable) as refused:
        Keys(file, Limits())
    assert str(file) in refused.value.detail
    assert "0.sha256" in refused.value.detail
    assert "omgsr_secret" not in refused.value.detail


# Over the wire ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    with TemporaryDirectory(prefix="omgsr-") as folder:
        yield Path(folder) / "keys.json"


@pytest.fixture(scope="module")
def keys(file: Path) -> dict[str, str]:
    return {"shop": new("shop", file), "other": new("other", file, "--max-priority", "5")}


@pytest.fixture(scope="module")
def api(file: Path, keys: dict[str, str]) -> Iterator[LoneApi]:
    with TemporaryDirectory(prefix="omgsr-") as folder, lone_api(Path(folder), OMGSR_API_KEYS=str(file)) as started:
        yield started
    assert not [key for key in keys.values() if key in started.said]
    assert "Traceback" not in started.said


@pytest.fixture
async def queue(api: LoneApi) -> AsyncIterator[Queue]:
    async with api.queue() as made:
        await made.register("the test", [VARIANT], ttl_s=600)
        yield made


@pytest.fixture
async def client(api: LoneApi, queue: Queue) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as made:
        yield made


async def test_without_a_known_key_there_is_nothing_to_see(client):
    asked = [("POST", "/v1/upscale"), ("GET", "/v1/models"), ("GET", "/v1/jobs/x"), ("DELETE", "/v1/jobs/x")]
    asked += [("GET", "/v1/jobs/x/result"), ("GET", "/v1/jobs/x/events")]
    for method, path in asked:
        for headers in ({}, bearer("omgsr_guess"), {"X-API-Key": "guess"}, {"Authorization": "Basic eDp4"}):
            answer = await client.request(method, path, headers=headers)
            check_problem(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200


async def test_a_job_carries_its_client_and_both_headers_name_a_key(client, queue, keys):
    for name, headers in (("shop", bearer(keys["shop"])), ("other", {"X-API-Key": keys["other"]})):
        answer = await client.post("/v1/upscale", files={"image": photo()}, headers=ASYNC | headers)
        leased = await first_lease(queue)
        assert (leased.job.id, leased.job.client) == (answer.json()["id"], name)
        await queue.cancel(leased.job.id)


async def test_a_job_is_there_for_its_own_client_alone(client, keys):
    answer = await client.post("/v1/upscale", files={"image": photo()}, headers=ASYNC | bearer(keys["shop"]))
    where = answer.headers["location"]
    for method, path in (("GET", ""), ("GET", "/result"), ("GET", "/events"), ("DELETE", "")):
        check_problem(await client.request(method, where + path, headers=bearer(keys["other"])), 404, "job-not-found")
    assert (await client.get(where, headers=bearer(keys["shop"]))).json()["state"] == "queued"
    assert (await client.delete(where, headers=bearer(keys["shop"]))).json()["state"] == "cancelled"


async def test_a_priority_above_the_key_s_is_refused(client, keys):
    for name, priority, code in (("shop", 1, 422), ("shop", -5, 202), ("other", 5, 202), ("other", 6, 422)):
        answer = await client.post(
            "/v1/upscale",
            params={"priority": priority},
            files={"image": photo()},
            headers=ASYNC | bearer(keys[name]),
        )
        assert answer.status_code == code
        if code == 422:
            assert "this API key may ask for" in check_problem(answer, 422, "bad-option")
        else:
            await client.delete(answer.headers["location"], headers=bearer(keys[name]))


async def test_a_revoked_key_is_refused_at_once(client, file):
    key = new("brief", file)
    assert (await client.get("/v1/models", headers=bearer(key))).status_code == 200
    await asyncio.to_thread(run, "revoke", "brief", file=file)
    check_problem(await client.get("/v1/models", headers=bearer(key)), 401, "unauthenticated")


def test_a_service_whose_keys_cannot_be_read_does_not_start(state: Path):
    process = start(state, OMGSR_API_KEYS=str(state / "none.json"))
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "none.json cannot be read" in said
    assert "Traceback" not in said
