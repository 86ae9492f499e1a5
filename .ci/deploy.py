"""Check what deploys the service, by the tools that are here: images, compose, workflows, Prometheus, the chart.

`python .ci/deploy.py`, in the repository's root. A tool that is not here is named, with where it comes from: what it
would have checked is not. Ends with 1 when a check fails, or finds none of its files.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LINTS = "pip install 'omgsr-serve[deploy-lint]'"
PROMTOOL = "Debian: the package prometheus"
HELM = "deploy/chart/validate.py says which"
SCHEMA = ("check-jsonschema", "--builtin-schema")
YAML = (
    *("*.yml", ".*.yml", ".*.yaml", ".github/**/*.yml"),
    *("deploy/*.yml", "deploy/prometheus/**/*.yml", "deploy/grafana/**/*.yml"),
    *("deploy/chart/*.yaml", "deploy/chart/examples/*.yaml"),  # its templates are no YAML yet
)


@dataclass(frozen=True)
class Check:
    """One call of a tool."""

    command: tuple[str, ...]
    files: tuple[str, ...]
    """Patterns; each must match something."""
    source: str
    """Where the tool comes from."""
    lacks_code: int | None = None
    """With this status the tool ends when it lacks a tool of its own."""

    def run(self) -> str:
        """`ok …`, `SKIPPED …` or `FAILED …`."""
        tool = _found(self.command[0])
        if tool is None:
            return f"SKIPPED, {self.command[0]} is not on this machine ({self.source})"
        matches = {pattern: sorted(map(str, Path().glob(pattern))) for pattern in self.files}
        if missing := [pattern for pattern, found in matches.items() if not found]:
            return f"FAILED, there is no {', '.join(missing)}"
        files = [file for found in matches.values() for file in found]
        done = subprocess.run([tool, *self.command[1:], *files], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).strip()
        if done.returncode == self.lacks_code:
            return f"SKIPPED, {said}"
        return f"FAILED\n{said}" if done.returncode else f"ok, {len(files)} files"

    def __str__(self) -> str:
        return " ".join((*self.command, *self.files))


CHECKS = (
    Check(("hadolint",), ("Dockerfile", "deploy/standin/Dockerfile*"), LINTS),
    Check(("yamllint", "--strict"), YAML, LINTS),
    Check((*SCHEMA, "vendor.compose-spec"), ("docker-compose.yml", "deploy/first-node.yml"), LINTS),
    Check((*SCHEMA, "vendor.github-workflows"), (".github/workflows/*.yml",), LINTS),
    Check((*SCHEMA, "vendor.dependabot"), (".github/dependabot.yml",), LINTS),
    Check(("shellcheck",), (".ci/run", "deploy/*.sh"), LINTS),
    Check(("promtool", "check", "config"), ("deploy/prometheus/prometheus.yml",), PROMTOOL),
    Check(("promtool", "check", "rules"), ("deploy/prometheus/rules.yml", "deploy/prometheus/alerts.yml"), PROMTOOL),
    Check(("promtool", "test", "rules"), ("deploy/prometheus/tests/*.yml",), PROMTOOL),
    Check((sys.executable,), ("deploy/chart/validate.py",), HELM, lacks_code=3),
)


def _found(tool: str) -> str | None:
    """The one beside this Python, else on PATH."""
    return shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)


failed = False
for check in CHECKS:
    outcome = check.run()
    failed |= outcome.startswith("FAILED")
    print(f"{check}: {outcome}")
sys.exit(failed)
