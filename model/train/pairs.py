"""Seeded pairs of images: the low-quality network input beside its original."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.train.data import Crops, PhotoSet, as_images
from model.train.degradation import Degradation, degrade, upsample
from model.train.recipe import Recipe
from model.train.twins import Twins


class Pairs:
    """Batches of (x_L, x_H) by number, each a function of its number alone: x_L is damaged and enlarged again."""

    def __init__(
        self,
        samples: Crops | Twins,
        degradation: Degradation,
        size: int,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> None:
        self.samples: Dataset[Any] = samples
        self.degradation, self.size, self.device, self.workers = degradation, size, device, workers

    def stream(self, first: int, stride: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches first, first + stride, …, without end: two tensors [size,3,side,side] in [-1,1] on the device.

        Photos are read and cropped by `workers` processes (0: by this one), and damaged on the device.
        """
        numbers = (list(range(index * self.size, (index + 1) * self.size)) for index in itertools.count(first, stride))
        # Its own generator: a loader that draws from torch's global one would change what a resumed run finds there.
        loader = DataLoader(self.samples, batch_sampler=numbers, num_workers=self.workers, generator=torch.Generator())
        ready = isinstance(self.samples, Twins)
        for one, other in loader:
            if ready:
                x_l, x_h = as_images(one.to(self.device)), as_images(other.to(self.device))
            else:
                x_h = as_images(one.to(self.device))
                x_l = degrade(x_h, other.tolist(), self.degradation)
            yield upsample(x_l, self.degradation.scale), x_h


def samples_of(recipe: Recipe) -> Crops | Twins:
    """What a recipe trains on: crops of photos that are damaged here, or pairs that were made before."""
    seed = recipe.optimization.seed
    if recipe.pairs is not None:
        return Twins(recipe.pairs, recipe.crop, recipe.degradation.scale, seed)
    assert recipe.data is not None
    return Crops(PhotoSet(recipe.data, recipe.run), recipe.crop, seed)
