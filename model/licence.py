"""A licence is shown and accepted once; the folder of the weights remembers it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from model.errors import ModelFilesError
from model.released import Licence

FILE = "licences.json"

Ask = Callable[[str, Licence], bool]
"""Shows the licence of the base of that id, and tells whether it is accepted."""


def require_licence(base: str, licence: Licence, into: Path, ask: Ask) -> None:
    """Ask for the licence of `base`, unless it was accepted for `into` before. Raises ModelFilesError if it is not."""
    if recorded_licence(base, into) == licence.name:
        return
    if not ask(base, licence):
        raise ModelFilesError(
            f"the licence of {base} was not accepted, and nothing of it was fetched: read it "
            f"({licence.address}), then answer yes, or give --accept-license"
        )
    path = into / FILE
    accepted = json.loads(path.read_text()) if path.is_file() else {}
    accepted[base] = {"licence": licence.name, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    partial = path.with_name(f"{FILE}.partial")
    partial.write_text(json.dumps(accepted, indent=2) + "\n")
    partial.replace(path)


def recorded_licence(base: str, into: Path) -> str:
    """The name of the licence that was accepted for `base`; empty if none was."""
    path = into / FILE
    return str(json.loads(path.read_text()).get(base, {}).get("licence", "")) if path.is_file() else ""
