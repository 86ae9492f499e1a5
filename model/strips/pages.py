"""Host memory for maps of strips, kept from one to the next."""

import math
import mmap
import weakref
from collections import deque
from contextlib import suppress
from typing import Self

import numpy as np
import torch
from torch import Tensor

SLAB = 2**28
"""Bytes that are asked of the kernel at once, at least; what is not touched of them is not taken."""
ALIGNED = 64
"""Bytes: what vector instructions and caches like."""


class Pages:
    """Allocates contiguous tensors, not initialised, of memory that the ones before have left.

    New pages are a large part of a large image's time: the kernel clears them, and on a virtual machine the host may
    have to find them first. They are not the heap's: strips of one layer die while those of the next are made, and the
    holes that they leave there took 16 GB and more for an image whose maps take 11. One thread may ask; tensors may die
    in any.
    """

    def __init__(self) -> None:
        self._slabs: list[_Slab] = []

    def __deepcopy__(self, _: object) -> Self:
        return type(self)()

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor whose memory comes back by itself. Raises MemoryError where there is none left."""
        size = -(-math.prod(shape) * dtype.itemsize // ALIGNED) * ALIGNED
        part = next((part for slab in self._slabs if (part := slab.take(size)) is not None), None)
        if part is None:
            self._slabs.append(_Slab(max(size, SLAB)))
            part = self._slabs[-1].take(size)
            assert part is not None
        return torch.from_numpy(part)[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def lend(self) -> None:
        """Let the kernel take what is not in use if it must: until then it is there for the next tensor."""
        for slab in self._slabs:
            slab.lend()

    def release(self) -> None:
        """Give back to the kernel what is not in use, and the rest when it is no longer."""
        self._slabs.clear()


class _Slab:
    """Pages in one piece, huge ones where the kernel has them; parts are taken from the front."""

    def __init__(self, size: int) -> None:
        try:
            self._pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"there are no {size / 2**20:,.0f} MiB of memory left for a part of the image") from error
        with suppress(AttributeError, OSError):  # not Linux, or a kernel without them
            self._pages.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(self._pages, dtype=np.uint8)
        self._free = [(0, size)]
        self._left: deque[tuple[int, int]] = deque()  # by tensors that died, in whatever thread: only appended to there

    def take(self, size: int) -> np.ndarray | None:
        """[size] bytes, free again when the array, or a tensor of it, is gone; None if there are not as many."""
        self._merge()
        for index, (start, stop) in enumerate(self._free):
            if stop - start >= size:
                self._free[index : index + 1] = [(start + size, stop)] if stop - start > size else []
                part = self._bytes[start : start + size]
                weakref.finalize(part, self._left.append, (start, start + size))
                return part
        return None

    def lend(self) -> None:
        self._merge()
        for start, stop in self._free:
            first, last = -(-start // mmap.PAGESIZE), stop // mmap.PAGESIZE
            if first < last:
                with suppress(AttributeError, OSError):
                    self._pages.madvise(mmap.MADV_FREE, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)

    def _merge(self) -> None:
        while self._left:
            self._free.append(self._left.popleft())
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(self._free):
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], stop)
            else:
                merged.append((start, stop))
        self._free = merged
