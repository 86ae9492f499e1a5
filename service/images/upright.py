"""The eight ways in which a photo may lie in its file."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Levels = TypeVar("Levels", bound=NDArray[Any])

_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def upright(image: Levels, orientation: int) -> Levels:
    """[H, W, …] as it should be seen, by its EXIF orientation 1 … 8; a view."""
    turned: Levels = _TURNS[orientation](image) if orientation in _TURNS else image  # type: ignore[assignment]
    return turned
