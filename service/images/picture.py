"""A picture in memory: colours of 8 or 16 bits, alpha beside them, and what its file said about them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.images.alpha import enlarge, fill_hidden
from service.job import BitDepth

Pixels = NDArray[np.uint8 | np.uint16]
"""Levels in 8 or in 16 bits; the full range of either is 0 … 1."""

_EIGHT_BITS = ((np.arange(2**16) + 128) // 257).astype(np.uint8)
"""The nearest 8-bit level of each 16-bit one."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright image and what must survive beside its colours."""

    rgb: Pixels
    """[H, W, 3], in the colours of `icc`, or sRGB without one; never premultiplied."""
    alpha: Pixels | None = None
    """[H, W], in as many bits."""
    icc: bytes | None = None
    """An RGB profile."""
    exif: bytes | None = None
    """A block as in JPEG, `Exif\\0\\0` first; its orientation is 1: the true one is applied to the pixels."""

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.rgb.shape[0])

    @property
    def depth(self) -> BitDepth:
        """Bits of a sample."""
        return 16 if self.rgb.dtype == np.uint16 else 8

    @property
    def filled_rgb(self) -> Pixels:
        """The colours [H, W, 3] as a model may see them: what hides under full transparency bleeds into no edge."""
        return self.rgb if self.alpha is None else fill_hidden(self.rgb, self.alpha)

    def with_rgb(self, rgb: Pixels) -> "Picture":
        """The same picture with new colours of any size and depth; alpha follows both."""
        alpha = self.alpha
        if alpha is not None and (alpha.shape, alpha.dtype) != (rgb.shape[:2], rgb.dtype):
            alpha = enlarge(alpha, (rgb.shape[1], rgb.shape[0]), rgb.dtype)
        return replace(self, rgb=rgb, alpha=alpha)

    def in_eight_bits(self) -> "Picture":
        """The same picture with each level rounded to the nearest of 256."""
        if self.depth == 8:
            return self
        alpha = None if self.alpha is None else _EIGHT_BITS[self.alpha]
        return replace(self, rgb=_EIGHT_BITS[self.rgb], alpha=alpha)

    def without_exif(self) -> "Picture":
        """The same picture without what its file told of camera, place and time."""
        return replace(self, exif=None)
