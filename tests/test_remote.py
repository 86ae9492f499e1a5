"""`omgsr upscale --server URL` as a person uses it: processes that are stopped and killed, a service that goes on."""

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from PIL import Image

from service.job import JobState
from service.queue.queue import Queue
from tests.pictures import photo
from tests.running import OMGSR, StubService, running_stub, stopped

PHOTOS = ["a.png", "b.png", "deep/a.png", "deep/er/c.png", "deep/er/d.png", "e.png"]
KEY = "secret"
WAIT_S = 60


@pytest.fixture(scope="module")
def service() -> Iterator[StubService]:
    with TemporaryDirectory(prefix="omgsr-") as folder:
        keys = Path(folder) / "keys.json"
        key = {"name": "me", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "created": "2026-01-01"}
        keys.write_text(json.dumps([key]))
        with running_stub(Path(folder), OMGSR_API_KEYS=str(keys)) as running:
            yield running


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(PHOTOS):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(12 + number, 12))
    return tmp_path / "in"


def command(url: str, *words: str | Path) -> list[str]:
    return [*OMGSR, "upscale", *map(str, words), "--server", url]


def upscale(url: str, *words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"OMGSR_API_KEY": KEY} | env
    return subprocess.run(command(url, *words), check=False, capture_output=True, text=True, timeout=WAIT_S, env=given)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_comes_back_as_it_went(service: StubService, photos: Path, tmp_path: Path) -> None:
    (photos / "notes.txt").write_text("no photo")
    ran = upscale(service.url, photos, tmp_path / "out", "--scale", "2", "--format", "webp")
    assert ran.returncode == 0, ran.stderr
    assert "skipped, not a photo: " in ran.stderr
    assert files(tmp_path / "out") == [name.replace(".png", ".webp") for name in PHOTOS]
    with Image.open(tmp_path / "out" / "deep/er/d.webp") as image:
        assert image.size == (2 * 16, 2 * 12)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.webp")}
    (tmp_path / "out" / "e.webp").unlink()
    again = upscale(service.url, photos, tmp_path / "out", "--scale", "2", "--format", "webp")
    assert again.returncode == 0, again.stderr
    assert "exists already" in again.stderr
    changed = [path.name for path, made in before.items() if path.stat().st_mtime_ns != made]
    assert changed == ["e.webp"]


def test_what_fails_is_named_with_what_to_do_and_the_others_are_made(
    service: StubService, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.png").write_bytes(photo()[:-40])
    (photos / "gone.png").symlink_to(tmp_path / "nowhere")
    ran = upscale(service.url, photos, tmp_path / "out")
    assert ran.returncode == 1
    assert f"failed: {photos}/bad.png: " in ran.stderr
    assert "Open and save the image again" in ran.stderr
    assert f"{photos}/gone.png: No such file or directory" in ran.stderr
    assert "2 of the files could not be upscaled" in ran.stderr
    assert files(tmp_path / "out") == PHOTOS


@contextmanager
def started(*words: str | Path, url: str) -> Iterator[subprocess.Popen[str]]:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run by a shell's `&` inherit that it is ignored
    process = subprocess.Popen([*command(url, *words), "--api-key", KEY], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def idle(service: StubService) -> Iterator[None]:
    """The service takes jobs, and its worker does not."""
    with stopped(psutil.Process(service.workers[0].process.pid)):
        yield


async def begun(queue: Queue, count: int) -> list[str]:
    """The ids of so many jobs, once they are in line."""
    after = "0"
    async with asyncio.timeout(WAIT_S):
        while len(found := await queue.active()) < count:
            after = await queue.arrival(after)
    return [status.job.id for status in found]


async def test_a_run_that_was_killed_is_taken_up_with_its_jobs(
    service: StubService, photos: Path, tmp_path: Path
) -> None:
    out, before = tmp_path / "out", len(service.api.log.lines)
    with idle(service):
        async with service.queue() as queue:
            with started(photos, out, "--jobs", "3", url=service.url):
                jobs = await begun(queue, 3)
    ran = upscale(service.url, photos, out, "--jobs", "3")
    assert ran.returncode == 0, ran.stderr
    assert files(out) == PHOTOS
    finished = re.findall(r'"job": "(\w+)".*"job finished"', "".join(service.api.log.lines[before:]))
    assert len(finished) == len(PHOTOS)
    assert set(jobs) <= set(finished)


async def test_ctrl_c_cancels_what_is_under_way_and_the_next_run_goes_on(
    service: StubService, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with idle(service):
        async with service.queue() as queue:
            with started(photos, out, "--jobs", "2", url=service.url) as running:
                jobs = await begun(queue, 2)
                running.send_signal(signal.SIGINT)
                _, said = running.communicate(timeout=WAIT_S)
            assert running.returncode == 130, said
            assert "Stopped; 6 are left." in said
            assert "Traceback" not in said
            assert {(await queue.status(job)).state for job in jobs} == {JobState.CANCELLED}
            assert await queue.active() == []
    assert files(out) == []
    ran = upscale(service.url, photos, out)
    assert ran.returncode == 0, ran.stderr
    assert files(out) == PHOTOS


def test_a_server_that_is_not_there_or_has_no_such_model_is_said_once(
    service: StubService, photos: Path, tmp_path: Path
) -> None:
    for url, words, said in [
        ("localhost:8000", (), "no server's address"),
        ("http://127.0.0.1:9", (), "http://127.0.0.1:9 does not answer"),
        (service.url, ("--model", "other"), "no model 'other'"),
        (service.url, ("--depth", "16", "--format", "jpeg"), "16 bits per sample need"),
    ]:
        ran = upscale(url, photos, tmp_path / "out", *words)
        assert ran.returncode == 1
        assert ran.stderr.count(said) == 1
        assert "failed: " not in ran.stderr


def test_a_wrong_key_is_said_once(service: StubService, photos: Path, tmp_path: Path) -> None:
    ran = upscale(service.url, photos, tmp_path / "out", OMGSR_API_KEY="wrong")
    assert ran.returncode == 1
    assert ran.stderr.count("The API key is not known here") == 1


def test_neither_client_nor_command_loads_what_only_a_server_needs() -> None:
    code = "import sys, service.client, service.remote; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "model", "redis", "fastapi", "grpc"} & set(loaded)
