"""`omgsr evaluate`. What is heavy is imported inside the command, so that `--help` is quick."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.analysis.published import Dataset
from model.console import errors_told, fail, stderr

if TYPE_CHECKING:
    from model.analysis.evaluate import Method, Outcome, Pair
    from model.analysis.metrics import Judges
    from model.analysis.report import Evaluation

WIDE = 1000  # columns: more than any table needs


def evaluate(  # noqa: PLR0917 — each is an option of the command line
    lq: Annotated[Path, typer.Option(help="Folder of small damaged images: NAME_x4.png or NAME.png.")],
    hq: Annotated[Path, typer.Option(help="Folder of the originals, NAME.*; it may be the same one.")],
    model: Annotated[Path | None, typer.Option(help="Variant folder of the model to run.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of finished results, instead of a model.")] = None,
    baseline: Annotated[Literal["bicubic"] | None, typer.Option(help="Measure this beside it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results, tables and pictures.")] = Path("evaluation"),
    dataset: Annotated[Dataset | None, typer.Option(help="Show the paper's figures for this set too.")] = None,
    color_fix: Annotated[
        Literal["adain", "wavelet", "none"] | None, typer.Option(help="Of the model; by default the variant's own.")
    ] = None,
    border: Annotated[int, typer.Option(min=0, help="Pixels cut from each side for PSNR and SSIM.")] = 4,
    device: Annotated[str, typer.Option(help="cpu, cuda, … or auto: the GPU where there is one.")] = "auto",
) -> None:
    """Measure a model, or finished results, on pairs of damaged images and originals.

    PSNR, SSIM, NIQE and EffLite0; with pyiqa also LPIPS, DISTS, FID, MUSIQ, MANIQA, CLIPIQA.

    A metric that cannot run is named, with the reason.

    Writes per_image.csv, summary.csv, report.md, contact_sheet.png and images/ to the folder --out.
    """
    with errors_told():
        from model.analysis.evaluate import by_bicubic, by_files, find_pairs
        from model.analysis.metrics import find_judges
        from model.analysis.report import Evaluation

        if (model and images) or not (model or images or baseline):
            fail("Give a --model or a folder of --images (or a --baseline alone).")
        on = _pick(device)
        pairs = find_pairs(lq, hq)
        methods = [_of_model(model, out / "images", color_fix, on)] if model else []
        methods += [by_files(images, pairs)] if images else []
        methods += [by_bicubic(out / "images")] if baseline else []
        scales = " and ".join(sorted({f"{pair.scale:.4g}×" for pair in pairs}))
        places = f"{lq}" if lq.samefile(hq) else f"{lq} and {hq}"
        setup = [f"{len(pairs)} pairs of {places}, {scales}.", *(method.told for method in methods)]
        outcomes = _run(methods, pairs, find_judges(border, on))
        _leave(Evaluation(outcomes, setup, border, dataset), out)


def _of_model(folder: Path, out: Path, color_fix: str | None, device: str) -> "Method":
    import torch

    from model.analysis.evaluate import by_model
    from model.pipeline import OMGSRPipeline

    # The short dtypes are slower on a CPU, not faster.
    dtype = torch.float32 if device == "cpu" else None
    pipe = OMGSRPipeline.from_variant(folder, device=device, dtype=dtype)
    return by_model(pipe, folder.resolve().name, out, color_fix)


def _run(methods: "Sequence[Method]", pairs: "Sequence[Pair]", judges: "Judges") -> "list[Outcome]":
    from model.analysis.evaluate import evaluate as judge_all

    outcomes = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=stderr) as bar:
        images = bar.add_task("evaluating", total=len(methods) * len(pairs))
        for method in methods:
            bar.update(images, description=escape(method.name))
            outcomes.append(judge_all(method, pairs, judges, lambda: bar.advance(images)))
        bar.update(images, description="done")
    return outcomes


def _leave(evaluation: "Evaluation", out: Path) -> None:
    from model.analysis.contact_sheet import save_contact_sheet
    from model.analysis.report import not_run, table, write_files

    out.mkdir(parents=True, exist_ok=True)
    write_files(evaluation, out, save_contact_sheet(evaluation.outcomes[0], out / "contact_sheet.png"))
    screen, shown = Console(highlight=False), table(evaluation)
    # In a narrow terminal lines may break, but numbers must not be cut.
    needed = Console(width=WIDE).measure(shown).maximum
    Console(highlight=False, width=max(screen.width, needed)).print(shown)
    for line in not_run(evaluation):
        screen.print(line, markup=False, soft_wrap=True)
    screen.print(f"wrote {out}: report.md, summary.csv, per_image.csv, contact_sheet.png", markup=False, soft_wrap=True)


def _pick(device: str) -> str:
    import torch

    found = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if found else "cpu"
    if device.startswith("cuda") and not found:
        fail("There is no GPU here that torch can use: choose --device cpu.")
    return device
