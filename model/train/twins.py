"""Pairs that were made before training: photographs of a real pair, or photos beside what a teacher makes of them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from model.errors import DataError
from model.train.config import Strict
from model.train.sources import SUFFIXES


class Folders(Strict):
    """Two folders of images with equal names; each original is `degradation.scale` times as large as its photo."""

    lq: Path = Field(description="folder of the damaged photos")
    hq: Path = Field(description="folder of the originals, or of what is to be learned in their place")
    flip: bool = Field(default=True, description="mirror left and right, half of the time")
    turn: bool = Field(default=False, description="mirror top and bottom, and swap the axes, half of the time each")


class Twins(Dataset[tuple[Tensor, Tensor]]):
    """Random crops of pairs: `twins[n]` depends on `seed` and n alone, for any n ≥ 0.

    Raises DataError for a folder without images, a photo without its original, and a pair that does not fit.
    """

    def __init__(self, folders: Folders, side: int, scale: int, seed: int) -> None:
        self.folders, self.side, self.scale, self.seed = folders, side, scale, seed
        self.names = sorted(file.name for file in folders.lq.glob("*") if file.suffix.lower() in SUFFIXES)
        if not self.names:
            raise DataError(f"{folders.lq} holds no images: correct pairs.lq")
        missing = [name for name in self.names if not (folders.hq / name).is_file()]
        if missing:
            raise DataError(
                f"{folders.hq} lacks {len(missing)} of {len(self.names)} originals, {missing[0]} among them"
            )

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """The photo [3,side/scale,side/scale] and its original [3,side,side], uint8."""
        rng = np.random.default_rng([self.seed, number])
        name = self.names[int(rng.integers(len(self.names)))]
        low, high = (_pixels(folder / name) for folder in (self.folders.lq, self.folders.hq))
        least = self.side // self.scale
        if high.shape[1:] != tuple(self.scale * extent for extent in low.shape[1:]) or min(low.shape[1:]) < least:
            raise DataError(
                f"{name}: {_size(low)} px beside {_size(high)} px, which is not {self.scale} times as large, "
                f"or less than a crop of {self.side}"
            )
        y, x = (int(rng.integers(extent - least + 1)) for extent in low.shape[1:])
        mirror, upend, swap = (bool(draw) for draw in rng.integers(2, size=3))
        crops = []
        for image, times in ((low, 1), (high, self.scale)):
            crop = image[:, times * y : times * (y + least), times * x : times * (x + least)]
            crop = crop.flip(2) if mirror and self.folders.flip else crop
            crop = crop.flip(1) if upend and self.folders.turn else crop
            crops.append((crop.transpose(1, 2) if swap and self.folders.turn else crop).contiguous())
        return crops[0], crops[1]


def _pixels(file: Path) -> Tensor:
    """[3,H,W] uint8. Raises DataError for an unreadable file."""
    try:
        with Image.open(file) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}×{image.shape[1]}"
