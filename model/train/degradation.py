"""The second-order degradation of Real-ESRGAN (arXiv:2107.10833): what turns a clean crop into a small damaged photo.

Twice blur → resize → noise → JPEG, with a last sinc filter for ringing. Each sample draws its own parameters and noise
from its own seed, so a sample's damage does not depend on the batch that it is in. All work is done on the device of
the images. Where samples share a size they go as one batch; between the resizes each has a size of its own.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor

from model.bicubic import bicubic
from model.train import kernels
from model.train.config import Strict
from model.train.draw import Draw, PositiveRange, Range, sum_to_one
from model.train.jpeg import jpeg
from model.train.noise import poisson_noise

RESIZE_MODES = ("area", "bilinear", "bicubic")
LEAST_SIDE = 4
LUMA = (0.299, 0.587, 0.114)
Resizes = Annotated[tuple[float, float, float], AfterValidator(sum_to_one)]
Kinds = Annotated[tuple[float, float, float, float, float, float], AfterValidator(sum_to_one)]
Side = Literal[3, 5, 7, 9, 11, 13, 15, 17, 19, 21]


class Order(Strict):
    """Strengths of one blur → resize → noise → JPEG round, as in Real-ESRGAN's training options."""

    blur: float = Field(default=1.0, ge=0, le=1, description="probability of the blur")
    kinds: Kinds = Field(
        default=(0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        description="probability of kernels that are not sinc: Gaussian, generalised Gaussian, plateau, each first"
        " isotropic, then stretched and turned",
    )
    sides: tuple[Side, ...] = Field(
        default=(7, 9, 11, 13, 15, 17, 19, 21), min_length=1, description="sides of the kernels, equally likely"
    )
    sigma: PositiveRange = Field(default=(0.2, 3.0), description="standard deviations of the blur, in pixels")
    gaussian_beta: PositiveRange = Field(default=(0.5, 4.0), description="exponent of generalised Gaussians")
    plateau_beta: PositiveRange = Field(default=(1.0, 2.0), description="exponent of plateaus")
    resize: Resizes = Field(default=(0.2, 0.7, 0.1), description="probability of up, down, keep")
    scale: PositiveRange = Field(default=(0.15, 1.5), description="least and most resize factor")
    gaussian: float = Field(default=0.5, ge=0, le=1, description="probability of Gaussian noise; otherwise Poisson")
    noise: Range = Field(default=(1.0, 30.0), description="σ of Gaussian noise, of 255")
    poisson: Range = Field(default=(0.05, 3.0), description="scale of Poisson noise")
    grey: float = Field(default=0.4, ge=0, le=1, description="probability that the noise is the same in all channels")
    jpeg: PositiveRange = Field(default=(30.0, 95.0), description="JPEG quality")


class Degradation(Strict):
    """Both rounds and what comes at the end."""

    scale: int = Field(default=4, gt=1, description="how many times smaller the result is")
    sinc: float = Field(default=0.1, ge=0, le=1, description="probability that a blur kernel is a sinc")
    final_sinc: float = Field(default=0.8, ge=0, le=1, description="probability of the last sinc filter")
    first: Order = Order()
    second: Order = Order(
        blur=0.8,
        sigma=(0.2, 1.5),
        resize=(0.3, 0.4, 0.3),
        scale=(0.3, 1.2),
        noise=(1.0, 25.0),
        poisson=(0.05, 2.5),
    )


def degrade(x: Tensor, seeds: Sequence[int], config: Degradation) -> Tensor:
    """Images [B,3,H,W] in [-1,1] → damaged small ones [B,3,H/scale,W/scale] on the 8-bit grid, in [-1,1].

    To be called outside autocast, which would blur in half precision.
    """
    draws = [Draw(seed) for seed in seeds]
    x = kernels.convolve((x + 1) / 2, torch.stack([_blur_kernel(config.first, config.sinc, draw) for draw in draws]))
    endings = [_shrink(image[None], config, draw) for image, draw in zip(x, draws, strict=True)]
    small = torch.cat([ending.small for ending in endings])
    small = kernels.convolve(small, torch.stack([ending.sinc for ending in endings]))
    late = [index for index, ending in enumerate(endings) if ending.quality is not None]
    if late:
        small[late] = jpeg(small[late], torch.tensor([endings[index].quality for index in late]))
    return (small.clamp(0, 1) * 255).round() / 127.5 - 1


def upsample(small: Tensor, scale: int) -> Tensor:
    """The network's input: Pillow's bicubic enlargement, on the 8-bit grid; [B,3,h,w] → [B,3,scale·h,scale·w]."""
    height, width = small.shape[-2:]
    return bicubic((small.clamp(-1, 1) + 1) / 2, (scale * width, scale * height)) * 2 - 1


class _Ending(NamedTuple):
    """A sample at its final size, and what is still to be done to it."""

    small: Tensor
    sinc: Tensor
    quality: float | None  # none: the second JPEG is behind it already


def _shrink(x: Tensor, config: Degradation, draw: Draw) -> _Ending:
    """The way of one blurred image [1,3,H,W] through sizes of its own."""
    size = x.shape[-2:]
    small = (size[0] // config.scale, size[1] // config.scale)
    x = _resize_and_noise(x, size, config.first, draw)
    x = jpeg(x, torch.tensor([draw.uniform(*config.first.jpeg)]))
    x = kernels.convolve(x, _blur_kernel(config.second, config.sinc, draw)[None])
    x = _resize_and_noise(x, small, config.second, draw)
    quality = draw.uniform(*config.second.jpeg)
    late = draw.chance(0.5)
    if not late:
        x = jpeg(x, torch.tensor([quality]))
    x = F.interpolate(x, small, mode=draw.one_of(RESIZE_MODES))
    return _Ending(x, _final_kernel(config, draw), quality if late else None)


def _resize_and_noise(x: Tensor, reference: Sequence[int], order: Order, draw: Draw) -> Tensor:
    """Resized by a random factor on the ``reference`` size, then noise."""
    kind = draw.index(order.resize)
    factor = (draw.uniform(1, order.scale[1]), draw.uniform(order.scale[0], 1), 1.0)[kind]
    size = [max(LEAST_SIDE, int(side * factor)) for side in reference]
    x = F.interpolate(x, size, mode=draw.one_of(RESIZE_MODES)).clamp(0, 1)
    return _add_noise(x, order, draw).clamp(0, 1)


def _add_noise(x: Tensor, order: Order, draw: Draw) -> Tensor:
    grey = draw.chance(order.grey)
    if draw.chance(order.gaussian):
        sigma = draw.uniform(*order.noise) / 255
        return x + draw.normal(x[:, :1].shape if grey else x.shape).to(x) * sigma
    signal = (x * x.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True) if grey else x
    strength = draw.uniform(*order.poisson)
    return x + poisson_noise((signal * 255).round() / 255, draw.uniforms(signal.shape)) * strength


def _blur_kernel(order: Order, sinc: float, draw: Draw) -> Tensor:
    """One of the seven kinds, or the kernel that does nothing; in the window of the order's largest kernel."""
    window = max(order.sides)
    if not draw.chance(order.blur):
        return kernels.pulse(window)
    side = draw.one_of(order.sides)
    if draw.chance(sinc):
        # Small windows cut low frequencies' rings off.
        return kernels.widen(kernels.sinc(side, draw.uniform(math.pi / (3 if side < 13 else 5), math.pi)), window)
    shape, stretched = divmod(draw.index(order.kinds), 2)
    sigma = draw.uniform(*order.sigma)
    sigmas = (sigma, draw.uniform(*order.sigma) if stretched else sigma)
    angle = draw.uniform(-math.pi, math.pi) if stretched else 0.0
    if shape == 2:
        kernel = kernels.plateau(side, sigmas, angle, _beta(order.plateau_beta, draw))
    else:
        kernel = kernels.gaussian(side, sigmas, angle, _beta(order.gaussian_beta, draw) if shape == 1 else 1.0)
    return kernels.widen(kernel, window)


def _beta(bounds: tuple[float, float], draw: Draw) -> float:
    """Below 1 or above 1 with equal chance, so that the wider side does not rule."""
    return draw.uniform(bounds[0], 1) if draw.chance(0.5) else draw.uniform(1, bounds[1])


def _final_kernel(config: Degradation, draw: Draw) -> Tensor:
    window = max(config.second.sides)
    if not draw.chance(config.final_sinc):
        return kernels.pulse(window)
    return kernels.widen(kernels.sinc(draw.one_of(config.second.sides), draw.uniform(math.pi / 3, math.pi)), window)
