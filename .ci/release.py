"""Say which version `make release` would build, or why it must not: exit status 1."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

SEMANTIC = r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?"


def project_version() -> str:
    with Path("pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def faults(version: str) -> list[str]:
    """What stands against a release of the version. `+local` versions are no release."""
    found = []
    if not re.fullmatch(SEMANTIC, version):
        found.append(f"pyproject.toml: {version!r} is no semantic version (1.2.3)")
    if not re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", Path("CHANGELOG.md").read_text("utf-8"), re.M
    ):
        found.append(f"CHANGELOG.md has no entry `## [{version}] - YEAR-MONTH-DAY`: write what has changed")
    status = ["git", "status", "--porcelain"]
    if changed := subprocess.run(status, capture_output=True, text=True, check=True).stdout.splitlines():
        found.append(f"the tree has changes that no commit holds ({len(changed)}, first {changed[0]!r}): commit them")
    return found


version = project_version()
if against := faults(version):
    sys.exit("No release of " + version + ":\n" + "\n".join(f"- {fault}" for fault in against))
print(version)
