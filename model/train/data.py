"""Seeded random crops of photographs, in memory or read from disk.

A sample is a pure function of the run's seed and the sample's number. So a run resumes by counting on, and R processes
share the work by taking the numbers ≡ rank (mod R).
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.utils.data import Dataset

from model.errors import DataError
from model.train.config import Strict
from model.train.sources import Skipped, Source, entries

Pixels = NDArray[np.uint8]
ATTEMPTS = 12  # draws of one crop before a flat one is accepted: some photos are nearly all sky


def gradient_energy(crop: Pixels) -> float:
    """Mean absolute difference of neighbouring luma values of a [H,W,3] crop, luma in [0,1]."""
    luma = crop @ np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255
    return float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()) / 2


def steps_seed(seed: int, step: int) -> torch.Generator:
    """A generator for the noise of one step, independent of how often the run was resumed."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Data(Strict):
    """Where the photos lie and how crops are drawn from them; the defaults are the paper's plain random crops."""

    sources: tuple[Source, ...] = Field(min_length=1, description="all are pooled, each photo is equally likely")
    downscale: tuple[PositiveFloat, ...] = Field(
        (1.0,), min_length=1, description="Lanczos factors before cropping, equally likely; 2 sharpens soft photos"
    )
    min_gradient: float = Field(
        default=0.0, ge=0, lt=1, description="crops with less mean gradient (luma in [0,1]) are redrawn"
    )
    flip: bool = Field(default=True, description="mirror left and right, half of the time")
    turn: bool = Field(default=False, description="mirror top and bottom, and swap the axes, half of the time each")
    in_memory: bool = Field(default=False, description="decode all photos at the start: for sets that fit in memory")


class PhotoSet:
    """The photos of a configuration, decoded on demand or all at once. ``cache``: the run's folder, for tar indices.

    Raises DataError for a source without images, and if all photos are held in memory and none is readable.
    """

    def __init__(self, config: Data, cache: Path) -> None:
        self.config, self.skipped = config, Skipped()
        self.entries = entries(config.sources, cache, self.skipped)
        self.held = [self._decoded(index) for index in range(len(self.entries))] if config.in_memory else None

    def __len__(self) -> int:
        return len(self.entries)

    def pixels(self, index: int) -> Pixels | None:
        """[H,W,3] uint8, or None, which is noted in ``skipped``, for an unreadable photo."""
        return self._decoded(index) if self.held is None else self.held[index]

    def _decoded(self, index: int) -> Pixels | None:
        try:
            with Image.open(io.BytesIO(self.entries[index].read())) as image:
                return np.array(image.convert("RGB"))
        # What Pillow raises for files that are missing, cut off, broken, or bombs.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.skipped.add(self.entries[index].name, str(error))
            return None


class Sample(NamedTuple):
    """One crop [3,side,side] uint8 and the seed of its degradation; batches of a DataLoader have both stacked."""

    x_h: Tensor
    seed: int


class Crops(Dataset[Sample]):
    """Random crops of one size: ``crops[n]`` depends on ``seed`` and n alone, for any n ≥ 0.

    A photo that cannot be read or is smaller than the crop is noted in ``photos.skipped``; the sample's next draw
    stands in. In a DataLoader's workers the notes stay there, but each is logged.
    """

    def __init__(self, photos: PhotoSet, side: int, seed: int) -> None:
        self.photos, self.side, self.seed = photos, side, seed
        self.unusable: set[int] = set()

    def __getitem__(self, number: int) -> Sample:
        """Raises DataError if no photo at all can be used."""
        config = self.photos.config
        rng = np.random.default_rng([self.seed, number])
        seed = int(rng.integers(2**63))
        for _ in range(ATTEMPTS):
            crop = self._crop(rng)
            if not config.min_gradient or gradient_energy(crop) >= config.min_gradient:
                break
        mirror, upend, swap = rng.integers(2, size=3)
        crop = crop[:, :: 1 - 2 * mirror] if config.flip else crop
        if config.turn:
            crop = crop[:: 1 - 2 * upend]
            crop = crop.swapaxes(0, 1) if swap else crop
        return Sample(torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))), seed)

    def images(self, first: int, count: int) -> Tensor:
        """Samples first … first + count − 1 as images [count,3,side,side] in [-1,1]."""
        return as_images(torch.stack([self[number].x_h for number in range(first, first + count)]))

    def _crop(self, rng: np.random.Generator) -> Pixels:
        """[side,side,3] from any photo that can give it."""
        while len(self.unusable) < len(self.photos):
            index = int(rng.integers(len(self.photos)))
            if index not in self.unusable:
                crop = self._crop_of(index, rng)
                if crop is not None:
                    return crop
                self.unusable.add(index)
        reasons = "; ".join(f"{name}: {why}" for name, why in list(self.photos.skipped.reasons.items())[:3])
        raise DataError(f"none of {len(self.photos)} photos gives a crop of {self.side} px ({reasons} …)")

    def _crop_of(self, index: int, rng: np.random.Generator) -> Pixels | None:
        photo = self.photos.pixels(index)
        if photo is None:
            return None
        regions = [round(self.side * factor) for factor in self.photos.config.downscale]
        regions = [region for region in regions if region <= min(photo.shape[:2])]
        if not regions:
            size = f"{photo.shape[1]}×{photo.shape[0]}"
            self.photos.skipped.add(self.photos.entries[index].name, f"{size} px is less than a crop of {self.side}")
            return None
        region = regions[rng.integers(len(regions))]
        y, x = (int(rng.integers(extent - region + 1)) for extent in photo.shape[:2])
        crop = photo[y : y + region, x : x + region]
        if region == self.side:
            return crop
        return np.asarray(Image.fromarray(crop).resize((self.side, self.side), Image.Resampling.LANCZOS))


def as_images(x_h: Tensor) -> Tensor:
    """Uint8 pixels → float32 in [-1,1], on the device that they are on."""
    return x_h.float() / 127.5 - 1
