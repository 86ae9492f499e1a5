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
    low = image[:, None]
    kernel = low.new_tensor([0.25, 0.5, 0.25])
    for level in range(LEVELS):
        reach = 2**level
        low = F.conv2d(F.pad(low, (reach, reach, 0, 0), "replicate"), kernel.view(1, 1, 1, 3), dilation=(1, reach))
        low = F.conv2d(F.pad(low, (0, 0, reach, reach), "replicate"), kernel.view(1, 1, 3, 1), dilation=(reach, 1))
    return low[:, 0]


def _statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    variance = image.var((-2, -1), keepdim=True) + 1e-5
    return image.mean((-2, -1), keepdim=True), variance.sqrt()


FIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "adain": adain,
    "wavelet": wavelet,
    "none": lambda image, _reference: image,
}
