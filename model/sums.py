"""SHA256SUMS beside model files, in the form of `sha256sum`: which of them were damaged since. Free of torch."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

FILE = "SHA256SUMS"


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write `folder`/SHA256SUMS for the files `names` in it, whole or not at all."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in sorted(names)]
    partial = folder / f"{FILE}.partial"
    partial.write_text("".join(lines))
    partial.replace(folder / FILE)


def damaged(folder: Path) -> list[str]:
    """The files that `folder`/SHA256SUMS names and that are missing or changed; none where there is no such list."""
    path = folder / FILE
    if not path.is_file():
        return []
    named = [line.partition("  ") for line in path.read_text().splitlines() if line]
    return [name for digest, _, name in named if not (folder / name).is_file() or sha256(folder / name) != digest]


def sha256(path: Path) -> str:
    """Sha256 of one file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_sha1(path: Path) -> str:
    """The name that git gives to a file's contents."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
