"""One image as a generator of ops: written once, driven by `OMGSRPipeline` (one caller) and by the Engine (many).

It yields the ops that are ready now and is sent their results in the same order; it returns the upscaled image.
"""

from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model import color
from model.bicubic import bicubic
from model.plan import Geometry, Size, Stage, stages, tiles
from model.tiles import blend, cut


@dataclass(frozen=True, eq=False)
class Op:
    """A piece of device work on one tensor; ops of equal `key` may run as one batch."""

    tensor: Tensor

    @property
    def key(self) -> tuple[type["Op"], torch.Size]:
        """Kind and shape."""
        return type(self), self.tensor.shape


class Encode(Op):
    """Pixels [3,H,W] in [-1,1] → z_L [C,H/8,W/8]."""


class Predict(Op):
    """A tile of z_L [C,k,k] → the prediction for it."""


class Decode(Op):
    """Latent [C,h,w] → pixels [3,8h,8w] in [-1,1]."""


Steps = Generator[Sequence[Op], Sequence[Tensor], Tensor]
StepEquation = Callable[[Tensor, Tensor], Tensor]
"""(z_L, prediction) → z_P (eq. 12 or 13 at the variant's mid-timestep)."""


def upscale(
    pixels: Tensor,
    geometry: Geometry,
    step: StepEquation,
    *,
    scale: float,
    strength: float,
    color_fix: str,
    deep: bool = False,
) -> Steps:
    """Upscale `pixels` [3,h,w] in [0,1] to exactly round(scale × size), in two stages beyond 4×.

    `strength`: z = z_L + strength·(z_P − z_L), 0 … 1.2. A `deep` image is enlarged without rounding to 256 levels.
    Raises ValueError for an option out of its range.
    """
    if not 0 <= strength <= 1.2:
        raise ValueError(f"strength must be 0 … 1.2, got {strength:g}")
    if color_fix not in color.FIXES:
        raise ValueError(f"color_fix must be one of {', '.join(color.FIXES)}, got {color_fix!r}")
    height, width = pixels.shape[-2:]
    # In 256 levels, like the enlarged photos that the networks learned from; a deep one keeps what is between them.
    enlarge = _resize if deep else bicubic
    for stage in stages((width, height), scale, geometry):
        x_l = enlarge(pixels, stage.processed)
        pixels = yield from _run(stage, x_l, geometry, step, strength=strength, color_fix=color_fix)
    return pixels


def _run(
    stage: Stage, x_l: Tensor, geometry: Geometry, step: StepEquation, *, strength: float, color_fix: str
) -> Steps:
    (z_l,) = yield [Encode(_pad(x_l, stage.padded) * 2 - 1)]
    prediction = yield from predict(z_l, geometry)
    z_p = step(z_l, prediction)
    (decoded,) = yield [Decode(z_l + strength * (z_p - z_l))]
    width, height = stage.processed
    x_p = (decoded[:, :height, :width] + 1) / 2
    return _resize(color.FIXES[color_fix](x_p, x_l).clamp(0, 1), stage.output)


def predict(z_l: Tensor, geometry: Geometry) -> Steps:
    """The prediction for a latent [C,h,w]: whole where it is at most a tile, blended from tiles otherwise."""
    height, width = z_l.shape[-2:]
    boxes = tiles(height, width, geometry.tile, geometry.overlap)
    if not boxes:
        (prediction,) = yield [Predict(z_l)]
        return prediction
    predictions = yield [Predict(tile) for tile in cut(z_l, boxes)]
    return blend(predictions, boxes, height, width)


def drive(images: Sequence[Steps], execute: Callable[[Sequence[Op]], list[Tensor]], max_batch: int) -> list[Tensor]:
    """Run images to their ends side by side, ops of equal key in batches of at most `max_batch`."""
    finished: dict[int, Tensor] = {}
    ready = {index: next(image) for index, image in enumerate(images)}
    while ready:
        results = _execute_all(ready, execute, max_batch)
        for index in list(ready):
            try:
                ready[index] = images[index].send(results[index])
            except StopIteration as end:
                finished[index] = end.value
                del ready[index]
    return [finished[index] for index in range(len(images))]


def _execute_all(
    ready: dict[int, Sequence[Op]], execute: Callable[[Sequence[Op]], list[Tensor]], max_batch: int
) -> dict[int, list[Tensor]]:
    groups = defaultdict(list)
    for index, ops in ready.items():
        for place, op in enumerate(ops):
            groups[op.key].append((index, place, op))
    results: dict[int, dict[int, Tensor]] = defaultdict(dict)
    for group in groups.values():
        for start in range(0, len(group), max_batch):
            batch = group[start : start + max_batch]
            for (index, place, _), result in zip(batch, execute([op for _, _, op in batch]), strict=True):
                results[index][place] = result
    return {index: [places[place] for place in range(len(places))] for index, places in results.items()}


def _resize(pixels: Tensor, size: Size) -> Tensor:
    """[3,h,w] in [0,1] to (width, height): antialiased bicubic, clipped after each axis, never rounded."""
    width, height = size
    for target in ((pixels.shape[-2], width), (height, width)):
        if pixels.shape[-2:] != target:
            pixels = F.interpolate(pixels[None], target, mode="bicubic", antialias=True)[0].clamp(0, 1)
    return pixels


def _pad(pixels: Tensor, size: Size) -> Tensor:
    right, below = size[0] - pixels.shape[-1], size[1] - pixels.shape[-2]
    return F.pad(pixels, (0, right, 0, below), mode="reflect") if right or below else pixels
