"""`omgsr jobs`, as an operator types it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from service.cli import app
from service.job import JobState
from service.queue.blobs import BlobStore, input_key
from service.queue.embedded import EmbeddedServer
from service.queue.queue import Queue
from service.settings import Settings
from tests.jobs import PROBLEM, job


@pytest.fixture
def settings(state: Path) -> Iterator[Settings]:
    with EmbeddedServer(state):
        yield Settings(state_dir=state)


def omgsr_jobs(settings: Settings, *words: str) -> Result:
    ran = CliRunner().invoke(app, ["jobs", *words], env={"OMGSR_STATE_DIR": str(settings.state_dir)})
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exc_info
    return ran


def printed(settings: Settings, *words: str) -> str:
    ran = omgsr_jobs(settings, *words)
    assert ran.exit_code == 0, ran.stderr
    return ran.stdout


async def _fill(settings: Settings) -> None:
    """One job that was given up, one that runs, one that waits."""
    async with Queue.of(settings) as queue:
        for name in ("dead", "running", "waiting"):
            BlobStore(settings.blobs).put(input_key(name), b"the photo")
            await queue.submit(job(name, client="[red]tape"))
        await queue.lease(["m"], "w", 2)
        await queue.fail("dead", 1, PROBLEM, dead=True)
        await queue.progress("running", 1, 3, 9)


async def _state(settings: Settings, job_id: str) -> JobState:
    async with Queue.of(settings) as queue:
        return (await queue.status(job_id)).state


def test_jobs_are_listed_shown_and_cancelled(settings: Settings) -> None:
    asyncio.run(_fill(settings))
    first, second = printed(settings, "list").splitlines()
    assert first.startswith("running  running  m  [red]tape  tiles 3/9")
    assert second.startswith("waiting  queued  m")
    shown = json.loads(printed(settings, "show", "dead"))
    assert (shown["job"]["id"], shown["error"]["detail"]) == ("dead", PROBLEM.detail)
    assert printed(settings, "cancel", "waiting") == "cancelled waiting\n"
    assert asyncio.run(_state(settings, "waiting")) is JobState.CANCELLED
    assert "failed already" in omgsr_jobs(settings, "cancel", "dead").stderr
    assert "There is no job nobody" in omgsr_jobs(settings, "cancel", "nobody").stderr


def test_a_dead_letter_is_replayed_or_buried(settings: Settings) -> None:
    asyncio.run(_fill(settings))
    assert PROBLEM.detail in printed(settings, "dead")
    new_id = printed(settings, "replay", "dead").strip()
    assert asyncio.run(_state(settings, new_id)) is JobState.QUEUED
    assert BlobStore(settings.blobs).get(input_key(new_id)) == b"the photo"
    assert printed(settings, "dead") == ""
    for command in ("replay", "bury"):
        ran = omgsr_jobs(settings, command, "dead")
        assert ran.exit_code == 1
        assert "no dead letter dead" in ran.stderr


def test_a_buried_letter_is_gone(settings: Settings) -> None:
    asyncio.run(_fill(settings))
    assert printed(settings, "bury", "dead") == "buried dead\n"
    assert printed(settings, "dead") == ""
    assert "There is no job dead" in omgsr_jobs(settings, "show", "dead").stderr
