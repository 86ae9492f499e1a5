"""A feature map that lies in host memory and visits the device strip by strip."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.strips.moments import Moments, Norming

Host = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Allocates a contiguous tensor, not initialised, in host memory."""


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory that a GPU copies from and to while it computes."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


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

    def strip(self, index: int) -> Tensor:
        """Strip `index` on the device, for reading: where that is the host, it is the map's own memory."""
        return self._on_device(self._strips[index])

    def window(self, index: int, above: int = 0, below: int = 0, norming: Norming | None = None) -> Tensor:
        """Strip `index` on the device, normed, with rows of its neighbours: the caller's own.

        Beyond the image's borders they are zeros, as a convolution pads: after the norm.
        """
        strip = self._strips[index]
        rows, width = strip.shape[2:]
        window = torch.empty(
            (1, strip.shape[1], above + rows + below, width),
            dtype=strip.dtype,
            device=self._device,
            memory_format=torch.channels_last,
        )
        self._fill(window[:, :, :above], self._strips.get(index - 1), slice(-above, None), norming)
        self._fill(window[:, :, above : above + rows], strip, slice(None), norming)
        self._fill(window[:, :, above + rows :], self._strips.get(index + 1), slice(below), norming)
        return window

    def _fill(self, place: Tensor, strip: Tensor | None, rows: slice, norming: Norming | None) -> None:
        if not place.shape[2]:
            return
        if strip is None:
            place.zero_()
            return
        part = strip[:, :, rows]
        if norming is None or part.device != place.device:
            part = place.copy_(part, non_blocking=True)
        if norming:
            norming(part, place)

    def add(self, index: int, strip: Tensor) -> Tensor:
        """Add [1,C,n,w] to strip `index`, and return the sum: on the device, for reading. `strip` is spent."""
        kept = self._strips[index]
        if kept.device == strip.device:
            return kept.add_(strip)
        strip += self._on_device(kept)
        kept.copy_(strip, non_blocking=True)
        return strip

    def put(self, index: int, strip: Tensor, dtype: torch.dtype | None = None) -> None:
        """Keep [1,C,n,w] as strip `index`, in the place of the one that is there."""
        kept = self._strips.get(index)
        if kept is None or kept.shape != strip.shape:
            _, channels, rows, width = strip.shape
            kept = self._host((1, rows, width, channels), dtype or strip.dtype).permute(0, 3, 1, 2)
            self._strips[index] = kept
        kept.copy_(strip, non_blocking=True)

    def _on_device(self, part: Tensor) -> Tensor:
        return part.to(self._device, non_blocking=True)

    def drop(self, index: int) -> None:
        """Give the strip's memory back."""
        del self._strips[index]

    def gather(self, whole: Tensor) -> None:
        """Write the map's first channels into `whole` [1,c,h,w], in host memory."""
        strips = [self._strips[index] for index in sorted(self._strips)]
        places = torch.split(whole, [strip.shape[2] for strip in strips], dim=2)
        for place, strip in zip(places, strips, strict=True):
            place.copy_(strip[:, : whole.shape[1]])
