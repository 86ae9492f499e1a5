"""Pairs that were made before training: photographs of a real pair, or photos beside what a teacher makes of them."""

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from model.analysis.evaluate import find_pairs, read
from model.errors import DataError
from model.train.config import Strict


class Folders(Strict):
    """Two folders, matched by name as by `omgsr evaluate`; each original is `degradation.scale` times as large."""

    lq: Path = Field(description="folder of the damaged photos")
    hq: Path = Field(description="folder of the originals, or of what is to be learned in their place")
    flip: bool = Field(default=True, description="mirror left and right, half of the time")
    turn: bool = Field(default=False, description="mirror top and bottom, and swap the axes, half of the time each")


class Twins(Dataset[tuple[Tensor, Tensor]]):
    """Random crops of pairs: `twins[n]` depends on `seed` and n alone, for any n ≥ 0.

    Raises DataError for a folder without images, names without a partner, and a pair that does not fit.
    """

    def __init__(self, folders: Folders, side: int, scale: int, seed: int) -> None:
        self.folders, self.side, self.scale, self.seed = folders, side, scale, seed
        self.pairs = find_pairs(folders.lq, folders.hq)
        for pair in self.pairs:
            if pair.scale != scale or min(pair.size) < side:
                raise DataError(
                    f"{pair.name}: the original has {pair.size[0]}×{pair.size[1]} px, {pair.scale:g} times its "
                    f"photo's: it must be {scale} times as large, and no less than a crop of {side}"
                )

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """The photo [3,side/scale,side/scale] and its original [3,side,side], uint8. Raises DataError if unreadable."""
        rng = np.random.default_rng([self.seed, number])
        pair = self.pairs[int(rng.integers(len(self.pairs)))]
        least = self.side // self.scale
        x, y = (int(rng.integers(extent // self.scale - least + 1)) for extent in pair.size)
        mirror, upend, swap = (bool(draw) for draw in rng.integers(2, size=3))
        crops = []
        for file, times in ((pair.low, 1), (pair.high, self.scale)):
            image = torch.from_numpy(np.array(read(file))).permute(2, 0, 1)
            crop = image[:, times * y : times * (y + least), times * x : times * (x + least)]
            crop = crop.flip(2) if mirror and self.folders.flip else crop
            crop = crop.flip(1) if upend and self.folders.turn else crop
            crops.append((crop.transpose(1, 2) if swap and self.folders.turn else crop).contiguous())
        return crops[0], crops[1]
