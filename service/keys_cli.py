"""`omgsr keys`: API keys made, listed and revoked. A key is shown once; its digest alone is kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from model.console import fail
from service.console import errors_told

if TYPE_CHECKING:
    from service.api.keyfile import ApiKey

keys_app = typer.Typer(help="The API keys of a service.", no_args_is_help=True)

File = Annotated[Path | None, typer.Option("--file", envvar="OMGSR_API_KEYS", help="The file that the keys lie in.")]
SHOWN = 8
"""Letters of a digest that tell one key from another in a list."""

_out = Console(highlight=False, soft_wrap=True)


@keys_app.command("new")
def new(  # noqa: PLR0917 — each is an option of the command line
    name: Annotated[str, typer.Argument(help="The client's name. One that has a key gets another: for rotation.")],
    file: File = None,
    weight: Annotated[float, typer.Option(help="Its share of a busy service, against others'.")] = 1.0,
    per_minute: Annotated[int | None, typer.Option(help="Jobs that it may submit in a minute [any number].")] = None,
    max_active: Annotated[int | None, typer.Option(help="Jobs that it may have under way [any number].")] = None,
    max_priority: Annotated[int, typer.Option(min=-10, max=10, help="The highest priority that it may ask for.")] = 0,
) -> None:
    """Make a key and print it: once, for it cannot be read again. A running service takes it at once."""
    from service.api.keyfile import ApiKey, changed_keys

    with errors_told():
        record, key = ApiKey.made(
            name, weight=weight, per_minute=per_minute, max_active=max_active, max_priority=max_priority
        )
        with changed_keys(_chosen(file)) as keys:
            keys.append(record)
        _out.print(key, markup=False)


@keys_app.command("list")
def show(file: File = None) -> None:
    """List the keys: not themselves, but the first letters of their digests."""
    from service.api.keyfile import read_keys

    with errors_told():
        for key in read_keys(_chosen(file)):
            bounds = f"per minute {key.per_minute or '-'}  active {key.max_active or '-'}  priority {key.max_priority}"
            _out.print(f"{_short(key)}  {key.name}  weight {key.weight:g}  {bounds}  {key.created}")


@keys_app.command("revoke")
def revoke(
    which: Annotated[str, typer.Argument(help="A client's name, for all its keys; or a key as `list` shows it.")],
    file: File = None,
) -> None:
    """Take keys away. A running service refuses them at once; jobs that they submitted go on."""
    from service.api.keyfile import changed_keys

    with errors_told(), changed_keys(_chosen(file)) as keys:
        gone = [key for key in keys if which in (key.name, _short(key))]
        if not gone:
            fail(f"There is no key of that name, and none that `omgsr keys list` shows as {which!r}.")
        keys[:] = [key for key in keys if key not in gone]
        _out.print("\n".join(f"revoked {_short(key)}  {key.name}" for key in gone))


def _short(key: "ApiKey") -> str:
    return key.sha256[:SHOWN]


def _chosen(file: Path | None) -> Path:
    if file is None:
        fail("No file is named.", "Give --file FILE, or set OMGSR_API_KEYS as for the service.")
    return file
