"""Which photos `omgsr upscale` takes and where their results go: one plan, with a server and without one."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from service.errors import BadOption
from service.job import SUFFIXES, OutputFormat, UpscaleOptions

PHOTO_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".dib"),
}
_FORMATS: dict[str, OutputFormat] = {**{suffix: name for name, suffix in SUFFIXES.items()}, ".jpeg": "jpeg"}


@dataclass(frozen=True)
class Errand:
    """One file to upscale, and where its result goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Plan:
    """What is to be done, and what is left aside."""

    format: OutputFormat
    errands: Sequence[Errand]
    existing: Sequence[Path] = ()
    """Results that are there already."""
    no_photos: Sequence[Path] = ()
    """Files whose names are no photo's."""
    unreadable: Sequence[OSError] = ()
    """Folders that cannot be listed."""


def plan_errands(source: Path, target: Path, wanted: OutputFormat | None, *, overwrite: bool) -> Plan:
    """The photos of a folder (its subfolders too, mirrored; hidden files left out), or the one file.

    Names are kept, with the suffix of the result's format. Results that exist are left as they are, but for
    `overwrite`. Raises BadOption when a result cannot lie where it is asked for, or two would have one name.
    """
    plan = _of_folder(source, target, wanted or "png") if source.is_dir() else _of_file(source, target, wanted)
    _refuse_collisions(plan.errands)
    there = [errand for errand in plan.errands if errand.target.is_file()]
    if own := next((errand for errand in there if errand.target.samefile(errand.source)), None):
        raise BadOption(f"The result would replace the photo {own.source}.", "Choose another OUT.")
    _refuse_unwritable(target if source.is_dir() or target.is_dir() else target.parent)
    if overwrite:
        return plan
    todo = [errand for errand in plan.errands if not errand.target.is_file()]
    return Plan(plan.format, todo, [errand.target for errand in there], plan.no_photos, plan.unreadable)


def in_format(options: UpscaleOptions, wanted: OutputFormat) -> UpscaleOptions:
    """The options for results in that format. Raises BadOption where they do not go together."""
    try:
        return UpscaleOptions.model_validate(options.model_dump() | {"format": wanted})
    except ValidationError as error:
        raise BadOption(f"{wanted}: {error.errors()[0]['msg']}.", "Choose other options.") from error


@contextmanager
def appearing(target: Path) -> Iterator[BinaryIO]:
    """A file to write: `target` is there after the block, whole; when the block fails nothing is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _of_file(source: Path, target: Path, wanted: OutputFormat | None) -> Plan:
    if not source.is_file():
        raise BadOption(f"There is no file or folder {source}.", "Check the path.")
    if target.is_dir():
        return Plan(wanted or "png", [_errand(source, source.parent, target, wanted or "png")])
    named = _FORMATS.get(target.suffix.lower())
    if named is None or (wanted and wanted != named):
        raise BadOption(
            f"{target} does not name a {wanted or 'PNG, JPEG, WebP or AVIF'} file.",
            f"Let the name end in {SUFFIXES[wanted] if wanted else ', '.join(SUFFIXES.values())}.",
        )
    return Plan(named, [Errand(source, target)])


def _of_folder(source: Path, target: Path, wanted: OutputFormat) -> Plan:
    if target.is_file():
        raise BadOption(f"{target} is a file, but {source} is a folder.", "Name a folder for the results.")
    if target.resolve() == source.resolve():
        raise BadOption("The results' folder is that of the photos.", "Name another folder, it may lie inside.")
    unreadable: list[OSError] = []
    files = list(_files(source, target.resolve(), unreadable))
    photos = [path for path in files if path.suffix.lower() in PHOTO_SUFFIXES]
    if not photos and not unreadable:
        raise BadOption(f"There is no photo in the folder {source}.", "Name a folder with photos.")
    others = [path for path in files if path.suffix.lower() not in PHOTO_SUFFIXES]
    errands = [_errand(path, source, target, wanted) for path in photos]
    return Plan(wanted, errands, no_photos=others, unreadable=unreadable)


def _files(top: Path, without: Path, unreadable: list[OSError]) -> Iterator[Path]:
    """Every file below `top` in the order of names, but for hidden ones and what lies in `without`."""
    for at, folders, names in os.walk(top, onerror=unreadable.append):
        here = Path(at)
        visible = (name for name in sorted(folders) if not name.startswith("."))
        folders[:] = [name for name in visible if (here / name).resolve() != without]
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def _errand(path: Path, root: Path, target: Path, wanted: OutputFormat) -> Errand:
    return Errand(path, target / path.relative_to(root).with_suffix(SUFFIXES[wanted]))


def _refuse_collisions(errands: Sequence[Errand]) -> None:
    claims = Counter(errand.target for errand in errands)
    twice = [target for target, count in claims.items() if count > 1]
    if not twice:
        return
    rivals = " and ".join(str(errand.source) for errand in errands if errand.target == twice[0])
    more = f" ({len(twice) - 1} more like it)" if len(twice) > 1 else ""
    raise BadOption(f"{rivals} would become one file, {twice[0]}{more}.", "Rename one, or move it to another folder.")


def _refuse_unwritable(folder: Path) -> None:
    """Before an hour of work whose results have no place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadOption(f"The folder {folder} cannot be made: {error.strerror}.", "Choose another OUT.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadOption(f"Nothing may be written to the folder {folder}.", "Choose another OUT.")
