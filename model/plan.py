"""What will happen to an image, in numbers alone: sizes, stages, tiles. Free of torch, so that the API can plan too.

Sizes are (width, height) in pixels, tiles are boxes in latents (8 pixels each way).
"""

from collections.abc import Iterator
from dataclasses import dataclass

LATENT = 8
"""Pixels per latent, each way, in both families."""

MAX_STAGE_SCALE = 4.0
"""A single stage is trained for 4×; what is asked beyond it is a second stage (figure 1)."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """What of a variant decides sizes and tiles."""

    process_size: int
    """Pixels: the short side is raised to at least this (the native size of the denoiser)."""
    tile: int
    """Latents: side of a tile."""
    overlap: int
    """Latents shared by neighbouring tiles."""
    multiple: int
    """Pixels: the network's own granularity, 8 (S) or 16 (F)."""

    def __post_init__(self) -> None:
        if self.tile * LATENT % self.multiple or self.process_size % self.multiple:
            raise ValueError(f"tile ({self.tile} latents) and process_size must be multiples of {self.multiple} pixels")
        if not 0 <= self.overlap < self.tile:
            raise ValueError(f"overlap must be at least 0 and below the tile ({self.tile}), got {self.overlap}")


@dataclass(frozen=True)
class Stage:
    """One pass of encode → predict → decode."""

    processed: Size
    """The input is resized to this: the output size, enlarged where its short side is below the process size."""
    padded: Size
    """`processed`, reflected up to the network's multiple."""
    output: Size
    """The decoded image is cropped to `processed` and resized to this."""


@dataclass(frozen=True)
class Box:
    """A square tile of the latent."""

    y: int
    x: int
    side: int


def output_size(size: Size, scale: float) -> Size:
    """Exactly round(scale × size), at least one pixel."""
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def processed_size(output: Size, process_size: int) -> Size:
    """What an output is worked on at: its short side raised to the process size."""
    enlarge = max(1.0, process_size / min(output))
    return round(output[0] * enlarge), round(output[1] * enlarge)


def stages(size: Size, scale: float, geometry: Geometry) -> list[Stage]:
    """The stages that take an image of `size` to `scale` times it.

    Raises ValueError for a scale outside 1 … 8 or an image without pixels.
    """
    if not 1 <= scale <= 2 * MAX_STAGE_SCALE:
        raise ValueError(f"scale must be 1 … {2 * MAX_STAGE_SCALE:g}, got {scale:g}")
    if min(size) < 1:
        raise ValueError(f"the image has no pixels: {size[0]}×{size[1]}")
    outputs = [output_size(size, scale)]
    if scale > MAX_STAGE_SCALE:
        outputs.insert(0, output_size(size, MAX_STAGE_SCALE))
    return [_stage(output, geometry) for output in outputs]


def _stage(output: Size, geometry: Geometry) -> Stage:
    processed = processed_size(output, geometry.process_size)
    multiple = geometry.multiple
    padded = (-(-processed[0] // multiple) * multiple, -(-processed[1] // multiple) * multiple)
    return Stage(processed, padded, output)


def tiles(height: int, width: int, tile: int, overlap: int) -> list[Box]:
    """Tiles that cover a latent of height × width: columns outside, rows inside, the last shifted to the border.

    A latent of at most tile² elements and any shape is one whole (no box: an empty list). A side shorter than
    the tile shrinks the tile to that side, as in the reference; an overlap that then has no room becomes half of it.
    """
    if height * width <= tile * tile:
        return []
    side = min(tile, height, width)
    stride = side - (overlap if overlap < side else side // 2)
    return [Box(y, x, side) for x in _offsets(width, side, stride) for y in _offsets(height, side, stride)]


def _offsets(length: int, side: int, stride: int) -> Iterator[int]:
    yield from range(0, length - side, stride)
    yield length - side


def tile_count(size: Size, scale: float, geometry: Geometry) -> int:
    """How many predictions an image of `size` at `scale` will need."""
    return sum(
        max(1, len(tiles(stage.padded[1] // LATENT, stage.padded[0] // LATENT, geometry.tile, geometry.overlap)))
        for stage in stages(size, scale, geometry)
    )
