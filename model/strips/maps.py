"""A feature map that lies in host memory and visits the device strip by strip."""

import math
import mmap
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from model.strips.moments import Moments

Host = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Allocates a contiguous tensor, not initialised, in host memory."""


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory that a GPU copies from and to while it computes."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def mapped(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Pages of its own, huge ones where the kernel has them. Raises MemoryError where there are no more.

    Not from the heap: strips of one layer die while those of the next are made, and the holes that they leave there
    took 16 GB and more for an image whose maps take 11.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"there are no {size / 2**20:,.0f} MiB of memory left for a part of the image") from error
    with suppress(AttributeError, OSError):  # not Linux, or a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


class Map:
    """[1,C,h,w], cut into strips of rows, each in channels-last order so that its rows are one piece of memory."""

    def __init__(self, device: torch.device, host: Host) -> None:
        self._device = device
        self._host = host
        self._strips: dict[int, Tensor] = {}
        self.moments = Moments()

    def __len__(self) -> int:
        """Strips."""
        return len(self._strips)

    @property
    def pixels(self) -> int:
        """h·w."""
        return sum(strip.shape[2] * strip.shape[3] for strip in self._strips.values())

    def window(self, index: int, above: int = 0, below: int = 0) -> Tensor:
        """Strip `index` on the device, with rows of its neighbours; beyond the image's borders there are none."""
        parts = [self._strips[index]]
        if above and index - 1 in self._strips:
            parts.insert(0, self._strips[index - 1][:, :, -above:])
        if below and index + 1 in self._strips:
            parts.append(self._strips[index + 1][:, :, :below])
        strip = parts[0]
        rows = [part.shape[2] for part in parts]
        window = torch.empty(
            (1, strip.shape[1], sum(rows), strip.shape[3]),
            dtype=strip.dtype,
            device=self._device,
            memory_format=torch.channels_last,
        )
        for place, part in zip(torch.split(window, rows, dim=2), parts, strict=True):
            place.copy_(part, non_blocking=True)
        return window

    def put(self, index: int, strip: Tensor, dtype: torch.dtype | None = None) -> None:
        """Keep [1,C,n,w] as strip `index`, in the place of the one that is there."""
        kept = self._strips.get(index)
        if kept is None or kept.shape != strip.shape:
            _, channels, rows, width = strip.shape
            kept = self._host((1, rows, width, channels), dtype or strip.dtype).permute(0, 3, 1, 2)
            self._strips[index] = kept
        kept.copy_(strip, non_blocking=True)

    def drop(self, index: int) -> None:
        """Give the strip's memory back."""
        del self._strips[index]

    def gather(self, whole: Tensor) -> None:
        """Write the map's first channels into `whole` [1,c,h,w], in host memory."""
        strips = [self._strips[index] for index in sorted(self._strips)]
        places = torch.split(whole, [strip.shape[2] for strip in strips], dim=2)
        for place, strip in zip(places, strips, strict=True):
            place.copy_(strip[:, : whole.shape[1]])
