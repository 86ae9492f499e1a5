"""Transparency without halos: hidden colours stay out of the edges, and a matte grows without ringing."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image, ImageFilter

Levels = NDArray[np.uint8 | np.uint16]
Plane = NDArray[np.floating[Any]]


def enlarge(alpha: Levels, size: tuple[int, int], dtype: DTypeLike) -> Levels:
    """A matte [H, W] at `size` (width, height), in the bits of `dtype`, rounded once.

    Bicubic, held between the least and the most of the 3×3 pixels around: crisp, centred, and no ringing.
    """
    scale = np.iinfo(dtype).max / np.iinfo(alpha.dtype).max
    if alpha.min() == alpha.max():
        return np.full(size[::-1], round(alpha.flat[0] * scale), dtype)
    matte = Image.fromarray(alpha.astype(np.float32))
    smooth = np.asarray(matte.resize(size, Image.Resampling.BICUBIC))
    least, most = (
        np.asarray(matte.filter(rank).resize(size, Image.Resampling.NEAREST))
        for rank in (ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3))
    )
    enlarged: Levels = np.rint(smooth.clip(least, most) * scale).astype(dtype)
    return enlarged


def fill_hidden(rgb: Levels, alpha: Levels) -> Levels:
    """`rgb` [H, W, 3] with the colours of what shows nearby wherever `alpha` [H, W] is nought.

    They come from ever coarser averages, weighted by alpha, each used only where the finer one saw nothing.
    """
    shows = alpha > 0
    if shows.all() or not shows.any():
        return rgb
    weight = alpha.astype(np.float32)
    filled = rgb.copy()
    for channel in range(3):  # one at a time: floats take four times the memory
        spread = _spread(rgb[..., channel] * weight, weight)
        filled[..., channel] = np.where(shows, rgb[..., channel], np.rint(spread))
    return filled


def _spread(total: Plane, weight: Plane) -> Plane:
    """total ÷ weight where there is a weight, and else that of the averages of 2×2 around, and so on."""
    own: Plane = total / np.where(weight > 0, weight, 1)
    if weight.all():
        return own
    coarser = _doubled(_spread(_halved(total), _halved(weight)))[: total.shape[0], : total.shape[1]]
    spread: Plane = np.where(weight > 0, own, coarser)
    return spread


def _halved(plane: Plane) -> Plane:
    even = np.pad(plane, ((0, plane.shape[0] % 2), (0, plane.shape[1] % 2)))
    halved: Plane = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return halved


def _doubled(plane: Plane) -> Plane:
    """Linear: each pixel becomes two, a quarter of the way to its neighbours."""
    for axis in (0, 1):
        rows = plane.swapaxes(0, axis)
        near = np.concatenate([rows[:1], rows, rows[-1:]])
        pairs: Plane = np.stack([3 * rows + near[:-2], 3 * rows + near[2:]], 1) / 4
        plane = pairs.reshape(-1, rows.shape[1]).swapaxes(0, axis)
    return plane
