"""Whether tiled diffusion shows: the picture where its tiles end, and the picture that another grid would have made."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.pipeline import MAX_BATCH, OMGSRPipeline
from model.plan import LATENT, Box, Geometry, tiles
from model.tiles import blend, cut
from model.upscale import Predict, Steps, drive


def grid(height: int, width: int, geometry: Geometry, shift: int = 0) -> list[Box]:
    """The tiles of a latent of height × width, the whole grid moved up and left by `shift` latents.

    What would then lie outside is moved in. A side that one tile covers has no grid to move. Raises ValueError for a
    latent that is not tiled at all.
    """
    if not tiles(height, width, geometry.tile, geometry.overlap):
        raise ValueError(f"a latent of {height}×{width} is one tile of {geometry.tile}: it has no grid")
    side = min(geometry.tile, height, width)
    down, right = (shift if length > side else 0 for length in (height, width))
    boxes = tiles(height + down, width + right, side, geometry.overlap)
    return list(dict.fromkeys(Box(max(0, box.y - down), max(0, box.x - right), box.side) for box in boxes))


@torch.no_grad()
def made_on(pipe: OMGSRPipeline, z_l: Tensor, boxes: Sequence[Box] = ()) -> Tensor:
    """Latent z_L [C,h,w] → pixels [3,8h,8w] in [-1,1], the prediction blended from the tiles; without any, in one."""
    z_l = z_l.to(pipe.device)
    (prediction,) = drive([_predict(z_l, boxes)], pipe.execute, MAX_BATCH)
    return pipe.decode(pipe.step(z_l, prediction)[None])[0]


def _predict(z_l: Tensor, boxes: Sequence[Box]) -> Steps:
    predictions = yield [Predict(tile) for tile in cut(z_l, boxes)] or [Predict(z_l)]
    return blend(predictions, boxes, *z_l.shape[-2:]) if boxes else predictions[0]


def seam_ratio(image: Tensor, boxes: Sequence[Box]) -> float:
    """Mean gradient magnitude across the tiles' borders over that everywhere else, for an image [C,8h,8w].

    The gradient is |step| between neighbouring pixels, a border the whole line on which a tile ends inside the image.
    What a photo shows on those few lines counts for more than any seam: compare with the ratio of the same photo made
    without these tiles (`made_on` in one piece), which is the same where no seam shows.
    """
    at, elsewhere = [], []
    for axis, starts in ((1, {box.y for box in boxes}), (2, {box.x for box in boxes})):
        steps = image.diff(dim=axis).abs().mean((0, 3 - axis))
        ends = {end * LATENT for start in starts for end in (start, start + boxes[0].side)}
        is_border = torch.tensor([i + 1 in ends for i in range(len(steps))])
        at.append(steps[is_border])
        elsewhere.append(steps[~is_border])
    return float(torch.cat(at).mean() / torch.cat(elsewhere).mean())
