"""Host memory for maps of strips, kept from one to the next."""

import math
import mmap
import weakref
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

SLAB = 2**28
"""Bytes that are asked of the kernel at once, at least; what is not touched of them is not taken."""
ALIGNED = 64
"""Bytes: what vector instructions and caches like."""


class Pages:
    """Allocates contiguous tensors, not initialised, of memory that the ones before have left. For one thread.

    New pages are a large part of a large image's time: the kernel clears them, and on a virtual machine the host may
    have to find them first. They are not the heap's: strips of one layer die while those of the next are made, and the
    holes that they leave there took 16 GB and more for an image whose maps take 11.
    """

    def __init__(self) -> None:
        self._slabs: list[_Slab] = []

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor whose memory comes back by itself. Raises MemoryError where there is none left."""
        size = -(-math.prod(shape) * dtype.itemsize // ALIGNED) * ALIGNED
        part = next((part for slab in self._slabs if (part := slab.take(size)) is not None), None)
        if part is None:
            self._slabs.append(_Slab(max(size, SLAB)))
            part = self._slabs[-1].take(size)
            assert part is not None
        return torch.from_numpy(part)[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def release(self) -> None:
        """Give back to the kernel what is not in use, and the rest when it is no longer."""
        self._slabs.clear()


class _Slab:
    """Pages in one piece, huge ones where the kernel has them; parts are taken from the front."""

    def __init__(self, size: int) -> None:
        try:
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"there are no {size / 2**20:,.0f} MiB of memory left for a part of the image") from error
        with suppress(AttributeError, OSError):  # not Linux, or a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(pages, dtype=np.uint8)
        self._free = [(0, size)]

    def take(self, size: int) -> np.ndarray | None:
        """[size] bytes, free again when the array, or a tensor of it, is gone; None if there are not as many."""
        for index, (start, stop) in enumerate(self._free):
            if stop - start >= size:
                self._free[index : index + 1] = [(start + size, stop)] if stop - start > size else []
                part = self._bytes[start : start + size]
                weakref.finalize(part, self._give, start, start + size)
                return part
        return None

    def _give(self, start: int, stop: int) -> None:
        merged: list[tuple[int, int]] = []
        for first, last in sorted([*self._free, (start, stop)]):
            if merged and merged[-1][1] == first:
                first = merged.pop()[0]  # noqa: PLW2901
            merged.append((first, last))
        self._free = merged
