"""A release: the built wheel is whole and works without the tree, and all that tells a version tells the same."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import httpx
import pytest
import yaml

from tests.running import OMGSR, running_service

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, by the backend that pyproject.toml names, from a copy: the backend leaves things in its folder."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("service", "model", "bench", "proto", "tests"):
        copytree(ROOT / name, tree / name, ignore=ignore_patterns("__pycache__", "data"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    built = subprocess.run([sys.executable, "-c", BUILD, out], cwd=tree, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return out / built.stdout.split()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes whose code is the wheel's and nothing of this tree's."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}


def test_the_wheel_holds_all_that_the_packages_need_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry_points = archive.read(f"omgsr_serve-{VERSION}.dist-info/entry_points.txt").decode()
    # bench/service drives the services of tests/, which is not shipped.
    found = [*_files("service"), *_files("model"), *ROOT.glob("bench/*.py"), *_files("proto")]
    wanted = {path.relative_to(ROOT).as_posix().removeprefix("proto/") for path in found}
    assert held == wanted
    assert {"service/queue/submit.lua", "omgsr/v1/upscale_pb2.py", "model/weights/sample.jpg"} <= held
    assert "omgsr = service.cli:app" in entry_points


def test_the_service_runs_from_the_wheel_alone_and_tells_its_version(installed: dict[str, str], state: Path) -> None:
    weights = Path(installed["PYTHONPATH"], "model", "weights")
    photo = (weights / "sample.jpg").read_bytes()
    with (
        running_service(state, weights, **installed) as service,
        httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client,
    ):
        image = client.post("/v1/upscale", params={"scale": 1}, content=photo, headers={"Content-Type": "image/jpeg"})
        page, document, metrics = (client.get(path) for path in ("/", "/openapi.json", "/metrics"))
    assert image.status_code == 200, image.text
    assert image.headers["content-type"] == "image/png"
    assert "<title>" in page.text
    assert document.json()["info"]["version"] == VERSION
    assert f'omgsr_build_info{{version="{VERSION}"}} 1.0' in metrics.text


def test_the_command_tells_its_version(installed: dict[str, str], tmp_path: Path) -> None:
    homes = "import service, model, omgsr, bench; print(*(each.__file__ for each in (service, model, omgsr, bench)))"
    told = _run([sys.executable, "-c", homes], installed, tmp_path).split()
    assert all(home.startswith(installed["PYTHONPATH"]) for home in told)
    assert _run([*OMGSR, "--version"], installed, tmp_path).strip() == VERSION


def test_the_changelog_and_the_chart_tell_the_projects_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"^## \[{re.escape(VERSION)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    chart = yaml.safe_load((ROOT / "deploy" / "chart" / "Chart.yaml").read_text("utf-8"))
    assert (chart["appVersion"], chart["version"]) == (VERSION, VERSION)


def _files(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _run(command: list[str], environment: dict[str, str], cwd: Path) -> str:
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=True).stdout
