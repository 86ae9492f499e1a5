"""What `omgsr upscale` shows while it works: a bar with the time left, and a line for every file that fails."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.pipeline import OMGSRPipeline
from service.errors import BadOption, NotAnImage, ServiceError, UnknownModel
from service.job import OutputFormat, UpscaleOptions
from service.local import Errand, plan_errands, upscale_file
from service.settings import Settings
from service.worker.variants import dtype_on, pick_device, variant_folders

PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp"}

_console = Console(stderr=True, highlight=False)


def upscale_files(
    source: Path,
    target: Path,
    options: UpscaleOptions,
    wanted: OutputFormat | None,
    settings: Settings,
    *,
    overwrite: bool,
) -> int:
    """Upscale a file or a folder and return how many files failed."""
    errands = plan_errands(source, target, wanted)
    if not errands:
        raise BadOption(f"The folder {source} is empty.", "Name a folder with photos.")
    pipe = _load(options.model, settings)
    failed = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=_console) as bar:
        # Counted in thousandths of a file: a large photo moves the bar tile by tile.
        files = bar.add_task("upscaling", total=len(errands))
        for number, errand in enumerate(errands):

            def told(done: int, total: int, number: int = number) -> None:
                bar.update(files, completed=number + done / total)

            bar.update(files, description=escape(errand.source.name), completed=number)
            try:
                _refuse_existing(errand, overwrite=overwrite)
                upscale_file(pipe, errand, options, settings, told)
            except NotAnImage as error:
                if errand.source.suffix.lower() in PHOTO_SUFFIXES or source.is_file():
                    failed += _tell("failed", errand, error.detail)
                else:
                    _tell("skipped, not a photo", errand, error.detail)
            except ServiceError as error:
                failed += _tell("failed", errand, f"{error.detail} {error.advice}")
            except (OSError, RuntimeError, MemoryError) as error:  # torch says RuntimeError when memory is short
                failed += _tell("failed", errand, str(error) or "not enough memory")
        bar.update(files, description="done", completed=len(errands))
    return failed


def _load(name: str, settings: Settings) -> OMGSRPipeline:
    folders = variant_folders(settings.models)
    if name and name not in folders:
        raise UnknownModel(f"There is no model {name!r}.", f"Choose one of: {', '.join(folders)}.")
    device = pick_device(settings.device)
    return OMGSRPipeline.from_variant(folders[name or next(iter(folders))], device=device, dtype=dtype_on(device))


def _refuse_existing(errand: Errand, *, overwrite: bool) -> None:
    if errand.target.exists() and (not overwrite or errand.target.samefile(errand.source)):
        raise BadOption(f"{errand.target} exists already.", "Choose another OUT, or pass --overwrite.")


def _tell(what: str, errand: Errand, why: str) -> int:
    _console.print(f"{what}: {escape(str(errand.source))}: {escape(why)}", soft_wrap=True)
    return 1
