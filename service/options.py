"""Options that several commands share. What is heavy is imported when they are read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from service.settings import Settings

Models = Annotated[
    list[Path] | None,
    typer.Option("--models", "-m", help="A variant folder, or a folder that holds some; may be given several times."),
]


def settings(**given: Any) -> "Settings":
    """The service's settings: those given on the command line, the others from the environment."""
    from service.settings import Settings

    return Settings(**{name: value for name, value in given.items() if value is not None})
