"""Render the chart with its default and its example values, and check every manifest that comes out.

    python deploy/chart/validate.py [--show]

Needs `helm` on PATH or the package helm-python-sdk, and the package kubernetes-validate. Ends with 0: all is well, 1:
not so, 3: a tool is missing, and nothing was checked.

What Kubernetes knows is checked against its own schemas of each version in VERSIONS, strictly: no unknown field passes.
The kinds of operators (KEDA, Prometheus) have no schema here: of those the fields in REQUIRED are looked for, no more.
Then come the promises that no schema knows (`promises.py`).
"""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

CHART = Path(__file__).parent
ROOT = CHART.parent.parent
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
EXAMPLES = [None, *sorted((CHART / "examples").glob("*.yaml"))]
REQUIRED = {
    "ScaledObject": (
        "spec.scaleTargetRef.name",
        "spec.minReplicaCount",
        "spec.maxReplicaCount",
        "spec.fallback.failureThreshold",
        "spec.fallback.replicas",
        "spec.triggers.*.type",
        "spec.triggers.*.metadata.serverAddress",
        "spec.triggers.*.metadata.query",
        "spec.triggers.*.metadata.threshold",
    ),
    "PodMonitor": ("spec.selector.matchLabels", "spec.podMetricsEndpoints.*.port"),
    "PrometheusRule": ("spec.groups.*.name", "spec.groups.*.rules.*.expr"),
}
MISSING_TOOL = 3
REFUSED: list[dict[str, Any]] = [
    {"worker": {"gpu": 1}},
    {"worker": {"gpus": 2}},
    {"worker": {"autoscaling": {"minReplicas": 0}}},
    {"redis": {"url": "redis://user:password@redis:6379"}},
    {"redis": {"url": "memcached://redis"}},
    {"settings": {"OMGSR_MAX_UPLOAD_BYTES": 33554432}},
]
"""Values that the schema has to refuse."""

Manifest = dict[str, Any]
Render = Callable[[Path | None], str]


class Refused(Exception):
    """Helm does not render the chart with these values."""


def main() -> int:
    try:
        import kubernetes_validate
        import yaml

        render, by = _renderer()
    except ImportError as error:
        print(f"chart: SKIPPED, {error}; pip install helm-python-sdk kubernetes-validate")
        return MISSING_TOOL
    sys.path.insert(0, str(CHART))
    from promises import broken_promises

    faults = [*_unlike_versions(yaml), *_wrongly_taken(render, yaml)]
    count = 0
    for values in EXAMPLES:
        name = values.stem if values else "default values"
        try:
            text = render(values)
        except Refused as error:
            faults.append(f"{name}: {error}")
            continue
        if "--show" in sys.argv:
            print(text)
        manifests = [each for each in yaml.safe_load_all(text) if each]
        count += len(manifests)
        faults += [f"{name}: {fault}" for each in manifests for fault in _faults(each, kubernetes_validate)]
        faults += [f"{name}: {fault}" for fault in broken_promises(manifests, ROOT)]
    print(
        *faults,
        f"chart: rendered by {by} with {len(EXAMPLES)} sets of values; {count} manifests against Kubernetes "
        f"{VERSIONS[0]}–{VERSIONS[-1]}, {', '.join(REQUIRED)} by their required fields alone: {len(faults)} faults",
        sep="\n",
    )
    return bool(faults)


def _renderer() -> tuple[Render, str]:
    """What renders the chart, and its name. Raises ImportError."""
    if helm := shutil.which("helm"):

        def by_program(values: Path | None) -> str:
            given = ["--values", str(values)] if values else []
            command = [helm, "template", "omgsr", str(CHART), "--namespace", "images", *given]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Refused(done.stderr.strip())
            return done.stdout

        return by_program, "helm"
    import helm_python
    import yaml

    def by_package(values: Path | None) -> str:
        given = yaml.safe_load(values.read_text("utf-8")) if values else {}
        try:
            with _quiet(), helm_python.Chart.load(str(CHART)) as chart:
                rendered = chart.render(given, name="omgsr", namespace="images")
        except helm_python.HelmError as error:
            raise Refused(str(error)) from None
        return "\n".join(f"---\n{text}" for path, text in rendered.items() if path.endswith(".yaml"))

    return by_package, f"helm-python-sdk (Helm {helm_python.helm_sdk_version()})"


@contextmanager
def _quiet() -> Iterator[None]:
    """The library tells of each link that it follows, past Python's streams."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _unlike_versions(yaml: Any) -> Iterator[str]:
    release = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    for name in ("version", "appVersion"):
        if chart[name] != release:
            yield f"Chart.yaml: {name} is {chart[name]}, the release is {release}"


def _wrongly_taken(render: Render, yaml: Any) -> Iterator[str]:
    for values in REFUSED:
        with NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            try:
                render(Path(file.name))
            except Refused:
                continue
            yield f"values.schema.json: {values} is taken"


def _faults(manifest: Manifest, kubernetes_validate: Any) -> Iterator[str]:
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if kind in REQUIRED:
        for path in REQUIRED[kind]:
            if not all(_at(manifest, path.split("."))):
                yield f"{kind} {name}: no {path}"
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{kind} {name}: Kubernetes {version}: {error.message} at {list(error.path)}"


def _at(value: Any, path: list[str]) -> list[Any]:
    """What lies at the path, in each item where it says `*`; None where nothing does."""
    if not path:
        return [value]
    first, *rest = path
    if first == "*":
        return [found for item in value or [None] for found in _at(item, rest)]
    return _at(value.get(first) if isinstance(value, dict) else None, rest)


if __name__ == "__main__":
    sys.exit(main())
