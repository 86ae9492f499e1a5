"""What will happen to an image, in numbers alone: sizes, stages, tiles. Free of torch, so that the API can plan too.

Sizes are (width, height) in pixels, tiles are boxes in latents (8 pixels each way).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

LATENT = 8
"""Pixels per latent, each way, in both families."""

MAX_STAGE_SCALE = 4.0
"""A single stage is trained for 4×; what is asked beyond it is a second stage (figure 1)."""

STRIP_PIXELS = 2**18
"""Of a strip, where memory allows: its maps stay near the caches, and the rows that it shares are few."""

HELD_BYTES = 48
"""Device memory per pixel that an image holds between its ops: four float32 pictures (its input and x_L; what it
encodes, or has decoded; what comes of that)."""

Size = tuple[int, int]
Kind = Literal["encode", "predict", "decode"]


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
    return sum(work.count for work in works(size, scale, geometry) if work.kind == "predict")


@dataclass(frozen=True)
class Work:
    """Ops of one kind and one shape that an image needs at once."""

    kind: Kind
    height: int
    """Pixels, also of what is in latents."""
    width: int
    count: int = 1

    @property
    def pixels(self) -> int:
        """Of one op."""
        return self.height * self.width


def works(size: Size, scale: float, geometry: Geometry) -> list[Work]:
    """All that the device will do for an image of `size` at `scale`, in order."""
    found = []
    for stage in stages(size, scale, geometry):
        width, height = stage.padded
        boxes = tiles(height // LATENT, width // LATENT, geometry.tile, geometry.overlap)
        tile_height, tile_width = (boxes[0].side * LATENT,) * 2 if boxes else (height, width)
        found.append(Work("encode", height, width))
        found.append(Work("predict", tile_height, tile_width, len(boxes) or 1))
        found.append(Work("decode", height, width))
    return found


@dataclass(frozen=True)
class BytesPerPixel:
    """Device memory that a variant's networks take while they run, per pixel that they work on (measured at start)."""

    encode: float
    predict: float
    decode: float
    whole_pixels: int = 2**62
    """Larger images go through the VAE in strips …"""
    strip_pixels: int = STRIP_PIXELS
    """… of about so many pixels, and take what a whole image of two strips does …"""
    striped: float = 0.0
    """… and this much per pixel of the image besides."""


def peak_bytes(work: Work, batch: int, each: BytesPerPixel) -> int:
    """Device memory that a batch of such ops takes while it runs: pixels × batch × the kind's bytes per pixel.

    In strips: 2 × strip_pixels × the kind's bytes per pixel + pixels × striped, for each image.
    """
    per_pixel: float = getattr(each, work.kind)
    if work.kind == "predict" or work.pixels <= each.whole_pixels:
        return math.ceil(work.pixels * batch * per_pixel)
    strips = min(work.pixels, 2 * each.strip_pixels) * per_pixel
    return math.ceil((strips + work.pixels * each.striped) * batch)


def held_bytes(planned: list[Work]) -> int:
    """Device memory that an image holds from its first op to its last, besides what its ops take while they run."""
    return HELD_BYTES * max(work.pixels for work in planned)


def lone_bytes(planned: list[Work], each: BytesPerPixel) -> int:
    """Device memory without which an image cannot be made at all: what it holds, and its largest op alone."""
    return held_bytes(planned) + max(peak_bytes(work, 1, each) for work in planned)
