"""Where training photos lie: folders, text lists, tar shards and YAML manifests, all as one list of `Entry`."""

import json
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, Field, PositiveInt, TypeAdapter, model_validator

from model.errors import DataError
from model.train.config import Strict

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif"})
INDEX = "shards.json"
Members = list[tuple[str, int, int]]  # name, offset and size in bytes

log = logging.getLogger(__name__)


class Source(Strict):
    """One place with photos; a bare path stands for ``{path: …}``."""

    path: Path = Field(description="folder and all below it, .txt list, .tar shard, .yaml manifest, or a glob of these")
    limit: PositiveInt | None = Field(default=None, description="take only the first so many; folders in sorted order")
    root: Path | None = Field(None, description="folder that paths in a list are relative to; null: the list's own")

    @model_validator(mode="before")
    @classmethod
    def _bare_path(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str | Path) else value


@dataclass(frozen=True, slots=True)
class Entry:
    """An image file, or a member of an uncompressed tar, which is a range of bytes."""

    path: Path
    member: str = ""
    offset: int = 0
    size: int | None = None

    @property
    def name(self) -> str:
        """What a person finds it by."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """The bytes of the image file. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.size is None else self.size)


class Skipped:
    """What could not be used: each thing is named and logged once, with its reason."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Notes that ``name`` is left out."""
        if name not in self.reasons:
            self.reasons[name] = reason
            log.warning("skipped %s: %s", name, reason)


def entries(sources: Sequence[Source], cache: Path, skipped: Skipped) -> list[Entry]:
    """All images of all sources, unopened. ``cache`` is the folder that keeps what the tar shards hold.

    Raises DataError for a source that is missing, of no known kind, or without any image.
    """
    index = TarIndex(cache / INDEX, skipped)
    found: list[Entry] = []
    for source in sources:
        one = [entry for path in _matches(source.path) for entry in _entries(path, source.root, index)]
        if not one:
            raise DataError(f"{source.path} holds no images (looked for {', '.join(sorted(SUFFIXES))})")
        found += one[: source.limit]
    index.save()
    return found


def _matches(path: Path) -> list[Path]:
    """The path itself, or what the glob matches."""
    if path.exists():
        return [path]
    first = next((place for place, part in enumerate(path.parts) if set(part) & set("*?[")), None)
    if first is None:
        raise DataError(f"{path} is missing: correct the source's path")
    folder, pattern = Path(*path.parts[:first]), "/".join(path.parts[first:])
    matches = sorted(folder.glob(pattern))
    if not matches:
        raise DataError(f"{path} matches nothing: correct the source's path")
    return matches


def _entries(path: Path, root: Path | None, index: "TarIndex") -> Iterator[Entry]:
    suffix = path.suffix.lower()
    if path.is_dir():
        yield from (Entry(file) for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES)
    elif suffix == ".tar":
        yield from (Entry(path, *member) for member in index.members(path))
    elif suffix == ".txt":
        lines = (line.strip() for line in path.read_text().splitlines())
        yield from (Entry((root or path.parent) / line) for line in lines if line and not line.startswith("#"))
    elif suffix in {".yaml", ".yml"}:
        photos = TypeAdapter(list[_Listed]).validate_python(yaml.safe_load(path.read_text()))
        yield from (Entry((root or path.parent) / photo.path) for photo in photos)
    elif suffix in SUFFIXES:
        yield Entry(path)
    else:
        raise DataError(
            f"{path} is no folder, .txt list, .tar shard, .yaml manifest or image (.tar.gz: unpack to .tar)"
        )


class _Listed(BaseModel):
    """A photo in a manifest; what else is said of it is for people."""

    path: Path


class TarIndex:
    """Where the images lie in tar shards, kept in a JSON file, so that each shard is walked through only once.

    Shards in webdataset's layout are plain tars. Its own reader goes through them in order, behind a shuffling buffer;
    a run that resumes at any sample, on any number of processes, needs to reach each image at once instead.
    """

    def __init__(self, path: Path, skipped: Skipped) -> None:
        self.path, self.skipped, self.changed = path, skipped, False
        self.shards: dict[str, tuple[int, int, Members]] = json.loads(path.read_text()) if path.exists() else {}

    def members(self, shard: Path) -> Members:
        """The images of ``shard``; of a damaged one those before the damage."""
        stat = shard.stat()
        size, modified, members = self.shards.get(str(shard), (0, 0, []))
        if (size, modified) == (stat.st_size, stat.st_mtime_ns):
            return members
        members, damage = _walk(shard)
        if damage:  # not kept, so that the next run names it too
            self.skipped.add(str(shard), f"damaged after {len(members)} images ({damage})")
        else:
            self.shards[str(shard)] = (stat.st_size, stat.st_mtime_ns, members)
            self.changed = True
        return members

    def save(self) -> None:
        """Writes what is new, in one piece: other processes of the run may read or write it too."""
        if self.changed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(self.shards))
            partial.replace(self.path)


def _walk(shard: Path) -> tuple[Members, str]:
    """The images of a shard, and what is wrong with it ("" if nothing)."""
    members: Members = []
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg() and Path(member.name).suffix.lower() in SUFFIXES:
                    members.append((member.name, member.offset_data, member.size))
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a cut header for the end
                return members, "it ends without an end mark"
    except (OSError, tarfile.TarError) as error:
        return members, str(error)
    return members, ""
