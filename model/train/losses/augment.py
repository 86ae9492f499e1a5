"""DiffAugment (arXiv:2006.10738): colour, translation and cutout of what a discriminator sees, differentiable.

Real and restored images go through the same kind of change, so that a discriminator that overfits to the photographs
cannot tell them by heart, and the gradient reaches the restored image through the change.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT, HOLE = 1 / 8, 1 / 2  # greatest translation and side of the cutout, as shares of the image's sides


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B,3,H,W] in [-1,1] → the same, about in [-1,1]; each image is changed by its own draw.

    ``generator`` is on the CPU: its draws are equal for every device, and its state is the whole state.
    """
    return cutout(translation(colour(images, generator), generator), generator)


def colour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Adds −0.5…0.5, scales the saturation by 0…2, and the contrast by 0.5…1.5, each about the mean."""
    draw = torch.rand(3, len(images), 1, 1, 1, generator=generator).to(images)
    brighter = images + draw[0] - 0.5
    grey = brighter.mean(1, keepdim=True)
    saturated = grey + (brighter - grey) * draw[1] * 2
    mean = saturated.mean((1, 2, 3), keepdim=True)
    return mean + (saturated - mean) * (draw[2] + 0.5)


def translation(images: Tensor, generator: torch.Generator) -> Tensor:
    """Moves each image by up to ``SHIFT`` of its sides; what comes in is 0, mid-grey."""
    height, width = images.shape[-2:]
    down, right = int(height * SHIFT + 0.5), int(width * SHIFT + 0.5)
    padded = F.pad(images, (right, right, down, down))
    tops = torch.randint(0, 2 * down + 1, (len(images),), generator=generator).tolist()
    lefts = torch.randint(0, 2 * right + 1, (len(images),), generator=generator).tolist()
    moved = [
        image[:, top : top + height, left : left + width] for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(moved)


def cutout(images: Tensor, generator: torch.Generator) -> Tensor:
    """Sets to 0 a rectangle of ``HOLE`` of the sides, whose centre may lie anywhere in the image."""
    height, width = images.shape[-2:]
    holes = [
        axis_hole(side, len(images), generator).to(images.device).view(-1, 1, *shape)
        for side, shape in ((height, (height, 1)), (width, (1, width)))
    ]
    return images.masked_fill(holes[0] & holes[1], 0)


def axis_hole(side: int, count: int, generator: torch.Generator) -> Tensor:
    """[count, side] bool: where the hole of each image lies along one axis."""
    centre = torch.randint(0, side + 1, (count, 1), generator=generator)
    start = centre - int(side * HOLE) // 2
    place = torch.arange(side)
    return (place >= start) & (place < start + int(side * HOLE))
