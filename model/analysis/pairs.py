"""Pairs of a damaged photo and its original, read from disk one at a time at the size that the encoder sees."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from model.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
ROLE = re.compile(r"[_-]?(x\d+|lr\d*|lq|hr|hq|gt)$", re.IGNORECASE)  # Canon_001_LR4 and Canon_001_HR are one photo

Damage = Callable[[Tensor, int], Tensor]
"""An original [1,3,H,W] in [-1,1] and its number → what the encoder gets to see in its place, of the same shape."""


def find_photos(where: str) -> list[Path]:
    """Photos of a folder and of all below it, or of a pattern such as 'photos/*.jpg', sorted by path.

    Raises DataError if there is none.
    """
    folder = Path(where)
    found = folder.rglob("*") if folder.is_dir() else Path(folder.anchor).glob(str(folder.relative_to(folder.anchor)))
    photos = sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
    if not photos:
        raise DataError(
            f"{where} holds no photo ({', '.join(sorted(SUFFIXES))}): give a folder, or a pattern in quotes"
        )
    return photos


def pair_up(lq: Sequence[Path], hq: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(LQ, HQ) by name, leaving out what only says the role: cat_x4.png goes with cat.jpg, a_LR4.png with a_HR.png.

    Raises DataError for two photos of one name and for a photo without a partner.
    """
    low, high = _by_name(lq), _by_name(hq)
    if alone := sorted(low.keys() ^ high.keys()):
        name = alone[0]
        missing, there = ("HQ", low[name]) if name in low else ("LQ", high[name])
        raise DataError(f"{len(alone)} photos have no partner; the first is {there}: its {missing} is missing")
    return [(low[name], high[name]) for name in sorted(low)]


def read_pairs(pairs: Sequence[tuple[Path, Path]], crop: int, multiple: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(x_L, x_H), each [1,3,H,W] in [-1,1]: the LQ enlarged by Pillow's bicubic to its HQ's size, then the centres.

    Raises DataError where the two have different shapes, and for files that are no pictures.
    """
    for lq, hq in pairs:
        low, high = _read(lq), _read(hq)
        scale = high.width / low.width
        if abs(low.height * scale - high.height) > scale:
            raise DataError(
                f"{lq} ({low.width}×{low.height}) and {hq} ({high.width}×{high.height}) do not show the same picture: "
                "their sides must have one ratio"
            )
        large = low.resize(high.size, Image.Resampling.BICUBIC)
        yield _centre(large, crop, multiple, lq), _centre(high, crop, multiple, hq)


def damage_photos(photos: Sequence[Path], damage: Damage, crop: int, multiple: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(x_L, x_H) as `read_pairs` gives them, with x_L made from the photo by `damage`, which is told its number."""
    for number, path in enumerate(photos):
        x_h = _centre(_read(path), crop, multiple, path)
        yield damage(x_h, number), x_h


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        name = ROLE.sub("", path.stem)
        if name in named:
            raise DataError(f"{named[name]} and {path} have one name: which of them belongs to a pair?")
        named[name] = path
    return named


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise DataError(f"{path} is no readable picture: {error}") from error


def _centre(image: Image.Image, crop: int, multiple: int, path: Path) -> Tensor:
    """The middle of the picture, at most crop×crop, its sides multiples of `multiple`; [1,3,H,W] in [-1,1]."""
    width, height = (min(side, crop) // multiple * multiple for side in image.size)
    if not width or not height:
        raise DataError(f"{path} ({image.width}×{image.height}) is smaller than {multiple} pixels")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.array(image.crop((left, top, left + width, top + height)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
