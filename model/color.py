"""Colour fixes: the output takes its colours from the input, against the shift that a latent round trip leaves."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

LEVELS = 5
"""Of the à trous pyramid: everything slower than 2⁵ pixels counts as colour."""


def adain(image: Tensor, reference: Tensor) -> Tensor:
    """Give each channel of `image` the mean and deviation of `reference`; both [...,3,H,W] in [0,1]."""
    mean, deviation = _statistics(image)
    target_mean, target_deviation = _statistics(reference)
    return (image - mean) / deviation * target_deviation + target_mean


def wavelet(image: Tensor, reference: Tensor) -> Tensor:
    """The detail of `image` on the low frequencies of `reference`; both [3,H,W] in [0,1]."""
    return image - low_frequencies(image) + low_frequencies(reference)


def low_frequencies(image: Tensor) -> Tensor:
    """`image` [3,H,W] through LEVELS of [1,2,1]/4 blurs, each twice as wide as the one before."""
    for level in range(LEVELS):
        reach = 2**level
        # Sums of slices: dilated convolutions of one channel cost a CPU ten times as much.
        rows = F.pad(image, (0, 0, reach, reach), "replicate")
        image = (rows[:, : -2 * reach] + 2 * image + rows[:, 2 * reach :]) / 4
        columns = F.pad(image, (reach, reach, 0, 0), "replicate")
        image = (columns[..., : -2 * reach] + 2 * image + columns[..., 2 * reach :]) / 4
    return image


def _statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    variance = image.var((-2, -1), keepdim=True) + 1e-5
    return image.mean((-2, -1), keepdim=True), variance.sqrt()


FIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "adain": adain,
    "wavelet": wavelet,
    "none": lambda image, _reference: image,
}
