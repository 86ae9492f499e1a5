"""`omgsr upscale` without a server: files in, files out, the same pipeline and the same file rules."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.pipeline import OMGSRPipeline
from model.plan import tile_count
from model.upscale import Op, Predict, drive
from service import images
from service.errors import BadOption, TooManyBytes
from service.job import OutputFormat, UpscaleOptions
from service.limits import check_result
from service.settings import Settings
from service.worker.pixels import to_rgb, to_tensor

SUFFIXES: dict[OutputFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "avif": ".avif"}
_FORMATS: dict[str, OutputFormat] = {**{suffix: name for name, suffix in SUFFIXES.items()}, ".jpeg": "jpeg"}


@dataclass(frozen=True)
class Errand:
    """One file to upscale, and where its result goes."""

    source: Path
    target: Path
    format: OutputFormat


def plan_errands(source: Path, target: Path, wanted: OutputFormat | None) -> list[Errand]:
    """Every file of a folder (its subfolders too, mirrored), or the one file.

    Names are kept, with the suffix of the result's format. Where that would give two photos one name, both keep
    their old suffix too (`photo.jpg.png`). Raises BadOption when the result cannot lie where it is asked for.
    """
    if source.is_file():
        if target.is_dir():
            return _in_folder([source], source.parent, target, wanted or "png")
        named = _FORMATS.get(target.suffix.lower())
        if named is None or (wanted and wanted != named):
            raise BadOption(
                f"{target} does not name a {wanted or 'PNG, JPEG, WebP or AVIF'} file.",
                f"Let the name end in {SUFFIXES[wanted] if wanted else ', '.join(SUFFIXES.values())}.",
            )
        return [Errand(source, target, named)]
    if not source.is_dir():
        raise BadOption(f"There is no file or folder {source}.", "Check the path.")
    if target.is_file():
        raise BadOption(f"{target} is a file, but {source} is a folder.", "Name a folder for the results.")
    inside = target.resolve()
    files = sorted(path for path in source.rglob("*") if path.is_file() and inside not in path.resolve().parents)
    return _in_folder(files, source, target, wanted or "png")


def _in_folder(files: Sequence[Path], root: Path, target: Path, wanted: OutputFormat) -> list[Errand]:
    plain = [target / path.relative_to(root).with_suffix(SUFFIXES[wanted]) for path in files]
    seen = Counter(plain)
    targets = [
        name if seen[name] == 1 else name.with_name(path.name + SUFFIXES[wanted])
        for path, name in zip(files, plain, strict=True)
    ]
    if twice := [str(name) for name, count in Counter(targets).items() if count > 1]:
        raise BadOption(f"Two photos would become {twice[0]}.", "Rename one of them.")
    return [Errand(path, name, wanted) for path, name in zip(files, targets, strict=True)]


def upscale_file(
    pipe: OMGSRPipeline,
    errand: Errand,
    options: UpscaleOptions,
    settings: Settings,
    on_tile: Callable[[int, int], None],
) -> None:
    """Upscale one file; `on_tile` is told the tiles done and those in all. The result appears whole or not at all."""
    if (length := errand.source.stat().st_size) > settings.max_upload_bytes:
        raise TooManyBytes(f"The file has {length:,} bytes, beyond {settings.max_upload_bytes:,}.")
    picture = images.decode(errand.source.read_bytes(), max_pixels=settings.max_input_pixels)
    size = (picture.width, picture.height)
    check_result(size, options.scale, errand.format, pipe.geometry.process_size, settings.max_output_pixels)
    done, total = 0, tile_count(size, options.scale, pipe.geometry)

    def execute(ops: Sequence[Op]) -> list[Tensor]:
        nonlocal done
        results = pipe.execute(ops)
        if isinstance(ops[0], Predict):
            done += len(ops)
            on_tile(done, total)
        return results

    steps = pipe.upscale(
        to_tensor(picture.rgb), scale=options.scale, strength=options.strength, color_fix=options.color_fix
    )
    with torch.no_grad():
        (upscaled,) = drive([steps], execute, settings.max_batch)
    data, _ = images.encode(picture.with_rgb(to_rgb(upscaled)), errand.format, options.quality)
    errand.target.parent.mkdir(parents=True, exist_ok=True)
    partial = errand.target.with_name(errand.target.name + ".part")
    partial.write_bytes(data)
    partial.replace(errand.target)
