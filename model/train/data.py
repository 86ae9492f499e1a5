"""Photographs in memory and seeded random crops of them."""

from collections.abc import Sequence

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.train.config import Photos

Pixels = NDArray[np.uint8]
ATTEMPTS = 12  # draws of one crop before a flat one is accepted: some photos are nearly all sky


def load_photos(config: Photos) -> list[Pixels]:
    """All photos of the manifest at each downscale factor, as [H,W,3] uint8 arrays in memory.

    Wallpapers are soft at full size; Lanczos downscaling makes their pixels sharp enough to learn from.
    """
    photos = []
    for entry in yaml.safe_load(config.manifest.read_text()):
        with Image.open(config.root / entry["path"]) as image:
            photo = image.convert("RGB")
        for factor in config.downscale:
            size = (round(photo.width / factor), round(photo.height / factor))
            if min(size) >= config.min_side:
                photos.append(np.asarray(photo.resize(size, Image.Resampling.LANCZOS)))
    if not photos:
        raise ValueError(f"{config.manifest} yields no photo with a side of {config.min_side} px or more")
    return photos


def gradient_energy(crop: Pixels) -> float:
    """Mean absolute difference of neighbouring luma values of a [H,W,3] crop, luma in [0,1]."""
    luma = crop @ np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255
    return float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()) / 2


class CropSampler:
    """Draws batches of crops; the batch of a step depends on the seed and the step only, so runs resume exactly."""

    def __init__(self, photos: Sequence[Pixels], min_gradient: float, seed: int) -> None:
        self.photos = photos
        self.min_gradient = min_gradient
        self.seed = seed
        # The square root lets large photos weigh more without letting a few of them rule.
        area = np.sqrt([photo.shape[0] * photo.shape[1] for photo in photos])
        self.weights = area / area.sum()

    def batch(self, step: int, size: int, side: int) -> Tensor:
        """[size,3,side,side] float32 in [-1,1], flipped and transposed at random."""
        rng = np.random.default_rng([self.seed, step])
        crops = np.stack([self._crop(rng, side) for _ in range(size)])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1

    def _crop(self, rng: np.random.Generator, side: int) -> Pixels:
        for _ in range(ATTEMPTS):
            photo = self.photos[rng.choice(len(self.photos), p=self.weights)]
            y, x = (int(rng.integers(extent - side + 1)) for extent in photo.shape[:2])
            crop = photo[y : y + side, x : x + side]
            if gradient_energy(crop) >= self.min_gradient:
                break
        flip_y, flip_x, transpose = rng.integers(2, size=3)
        crop = crop[:: 1 - 2 * flip_y, :: 1 - 2 * flip_x]
        return np.ascontiguousarray(crop.swapaxes(0, 1) if transpose else crop)


def steps_seed(seed: int, step: int) -> torch.Generator:
    """A generator for the noise of one step, independent of how often the run was resumed."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
