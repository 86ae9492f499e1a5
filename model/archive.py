"""Adapters from a zip or tar archive that anybody may have made: only known names are taken out, and only so much."""

import errno
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from model.errors import ModelFilesError

KNOWN = {"adapter_config.json", "adapter_model.safetensors", "variant.json", "prompt.safetensors"}
MAX_BYTES = 8 * 2**30
"""Of all that an archive unpacks to; FLUX adapters of rank 64 are about 1 GB."""
MAX_MEMBERS = 10_000
BLOCK = 2**20
UNREADABLE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, NotImplementedError),
)

Member = tuple[str, int, Callable[[], IO[bytes]]]
"""Name, bytes by its own account, and how to read it."""


def unpack(archive: Path, folder: Path, *, limit: int = MAX_BYTES) -> None:
    """Write the regular files of `KNOWN` names into `folder`, by their paths in the archive; the others are left out.

    Raises ModelFilesError for a file that is no archive or damaged, for paths that lead out of the folder, and beyond
    `limit` bytes. Links are never made, so a path cannot lead out by one.
    """
    try:
        _unpack(_zip(archive) if zipfile.is_zipfile(archive) else _tar(archive), folder, limit)
    except UNREADABLE as error:
        raise ModelFilesError(
            f"what came is no zip or tar archive that can be read ({error}). A cloud drive often answers with a page: "
            "fetch it there with a browser, and give the unpacked folder"
        ) from error


def _unpack(members: Iterator[Member], folder: Path, limit: int) -> None:
    total = 0
    for count, (name, size, opened) in enumerate(members):
        total += size
        if total > limit or count >= MAX_MEMBERS:
            raise ModelFilesError(f"the archive unpacks to more than adapters can be: {limit / 1e9:.0f} GB at most")
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
            raise ModelFilesError(f"the archive holds {name!r}, a path that leads out of its folder: do not trust it")
        if path.name in KNOWN:
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            with opened() as source, _writable(place) as target:
                _copy(source, target, size)


@contextmanager
def _writable(place: Path) -> Iterator[IO[bytes]]:
    """Raises ModelFilesError where the disk is the cause, not the archive."""
    try:
        with place.open("wb") as target:
            yield target
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
            raise ModelFilesError(f"{place} cannot be written: {error.strerror}") from error
        raise


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """All of `source`, which must be so long as its archive says: the sum of those was checked."""
    left = size
    while block := source.read(BLOCK):
        left -= len(block)
        if left < 0:
            raise ModelFilesError("a file in the archive is longer than the archive says: do not trust it")
        target.write(block)
    if left:
        raise ModelFilesError("a file in the archive is shorter than the archive says: fetch it again")


def _zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, lambda info=info: opened.open(info)  # type: ignore[misc]


def _tar(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as opened:
        for info in opened:
            if info.isreg():
                yield info.name, info.size, lambda info=info: _regular(opened, info)  # type: ignore[misc]


def _regular(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = opened.extractfile(info)
    if file is None:
        raise tarfile.ReadError(f"{info.name} is no regular file")
    return file
