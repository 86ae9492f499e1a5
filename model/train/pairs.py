"""Seeded pairs of images: the low-quality network input beside its original."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from model.train.data import Crops, as_images
from model.train.degradation import Degradation, degrade, upsample


class Pairs:
    """Batches of (x_L, x_H) by number, each a function of its number alone: x_L is damaged and enlarged again."""

    def __init__(
        self, crops: Crops, degradation: Degradation, size: int, device: torch.device | str = "cpu", workers: int = 0
    ) -> None:
        self.crops, self.degradation, self.size, self.device, self.workers = crops, degradation, size, device, workers

    def stream(self, first: int, stride: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches first, first + stride, …, without end: two tensors [size,3,side,side] in [-1,1] on the device.

        Photos are read and cropped by `workers` processes (0: by this one), and damaged on the device.
        """
        samples = (list(range(index * self.size, (index + 1) * self.size)) for index in itertools.count(first, stride))
        # Its own generator: a loader that draws from torch's global one would change what a resumed run finds there.
        loader = DataLoader(self.crops, batch_sampler=samples, num_workers=self.workers, generator=torch.Generator())
        for pixels, seeds in loader:
            x_h = as_images(pixels.to(self.device))
            yield upsample(degrade(x_h, seeds.tolist(), self.degradation), self.degradation.scale), x_h
