"""`omgsr serve`: starts everything, says what is wrong, leaves nothing behind."""

import os
import signal
import subprocess
from pathlib import Path

import httpx

from tests.running import OMGSR, STOP_S, environment, not_gone, running_service


def serve_in_vain(state: Path, models: Path, *arguments: str, **given: str) -> str:
    """What a start that must fail says."""
    failed = subprocess.run(
        [*OMGSR, "serve", *arguments],
        env=environment(state, models, **given),
        capture_output=True,
        text=True,
        timeout=STOP_S,
        check=False,
    )
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    return failed.stderr


def test_it_is_ready_and_lists_its_models(service) -> None:
    listed = httpx.get(f"{service.url}/v1/models").raise_for_status().json()["models"]
    assert {model["name"] for model in listed} == {"tiny-f", "tiny-s"}


def test_a_taken_port_is_refused_with_the_name_of_its_holder(service, state: Path, tiny_models: Path) -> None:
    port = service.url.rpartition(":")[2]
    said = serve_in_vain(state, tiny_models, "--port", port)
    assert f"port {port}" in said
    assert str(service.child("api").pid) in said
    assert "OMGSR_PORT" in said
    assert not (state / "queue").exists()  # refused before anything was started


def test_a_second_service_on_the_same_state_folder_is_refused(service, tiny_models: Path) -> None:
    said = serve_in_vain(service.settings.state_dir, tiny_models)
    assert "Another `omgsr serve`" in said
    assert httpx.get(f"{service.url}/readyz").is_success


def test_models_that_are_not_there_are_a_failed_start(state: Path, tmp_path: Path) -> None:
    said = serve_in_vain(state, tmp_path)
    assert "no variant folder" in said
    assert str(tmp_path) in said


def test_sigterm_and_ctrl_c_leave_nothing(state: Path, tiny_models: Path) -> None:
    with running_service(state, tiny_models) as service:
        assert len(service.family) >= 4  # supervisor, server, worker, API
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(STOP_S) == 0
        assert not_gone(service.family, timeout=0) == []


def test_a_killed_supervisor_leaves_no_orphans(state: Path, tiny_models: Path) -> None:
    with running_service(state, tiny_models) as service:
        os.kill(service.process.pid, signal.SIGKILL)
        assert not_gone(service.family) == []
