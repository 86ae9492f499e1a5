"""`omgsr bench`. What is heavy is imported inside, so that `--help` is quick."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from model.console import errors_told, stderr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.table import Table

_out = Console(highlight=False)

BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->"
"""Around what is written anew in a page that has more."""

Model = Literal["mini", "s", "f"]
Dtype = Literal["float32", "bfloat16", "float16"]


def bench(  # noqa: PLR0917 — each is an option of the command line
    model: Annotated[Model, typer.Option(help="The bundled mini, or a full-size S or F of random weights.")] = "mini",
    count: Annotated[bool, typer.Option("--count", help="Only count, full-size S and F: needs no GPU.")] = False,
    size: Annotated[list[int], typer.Option(min=64, help="Side of the images in pixels; several.")] = [512],  # noqa: B006
    batch: Annotated[list[int], typer.Option(min=1, help="Images at once; several.")] = [1],  # noqa: B006
    way: Annotated[
        list[str] | None, typer.Option(help="What is timed, as folded+inductor; several (default: all that fit).")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Turns after the warm-up.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N (default: cuda where there is one)")] = "",
    dtype: Annotated[Dtype | None, typer.Option(help="(default: bfloat16 on a GPU, float32 on a CPU)")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of a CPU; 0: what plain diffusers is fastest with.")] = 0,
    text_tokens: Annotated[int, typer.Option(min=1, max=512, help="Length of F's prompt.")] = 512,
    out: Annotated[
        Path | None, typer.Option(help="A Markdown file to write, or a page to write into, between its marks.")
    ] = None,
) -> None:
    """Time our ways against plain diffusers on the same weights in the same run, or count what they cost.

    Every way runs in turns with plain diffusers (A B A B …); ratios above 1 are ours.
    """
    with errors_told():
        if count:
            from bench.counted import tables as counted

            _tell(counted(), out)
            return
        import torch

        from bench.bare import load
        from bench.timed import tables
        from bench.ways import DEFAULTS, check

        on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        number = getattr(torch, dtype or ("float32" if on.type == "cpu" else "bfloat16"))
        names = way or DEFAULTS[on.type]
        try:
            check(names)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--way") from error
        with stderr.status("weights") as status:
            bare = load(model, on, number, text_tokens)
            if any(side % bare.geometry.multiple for side in size):
                raise typer.BadParameter(f"must be multiples of {bare.geometry.multiple}", param_hint="--size")
            title = f"{model.upper() if len(model) == 1 else model}, {str(number).removeprefix('torch.')}"
            command = shlex.join(["omgsr", *sys.argv[1:]])
            found = tables(
                bare,
                names,
                size,
                batch,
                runs=runs,
                threads=threads,
                title=title,
                command=command,
                note=status.update,
                told=stderr.print,
            )
            _tell(found, out)


def _tell(tables: "Iterable[Table]", out: Path | None) -> None:
    """Print each table when it is there, and write what there is."""
    pages: list[str] = []
    for table in tables:
        table.show(_out)
        pages.append(table.markdown("###"))
        if out is not None:
            _write("\n".join(pages), out)


def _write(tables: str, out: Path) -> None:
    """Between the marks of a page that has some, else as the whole file."""
    page = out.read_text(encoding="utf-8") if out.is_file() else ""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    out.write_text(f"{before}{begin}\n{tables}\n{end}{after}" if end else tables, encoding="utf-8")
