"""The second-order degradation of Real-ESRGAN (arXiv:2107.10833): what turns a clean crop into a small damaged photo.

Twice blur → resize → noise → JPEG, with a last sinc filter for ringing. Each sample draws its own parameters from
its own seed, so a sample's damage does not depend on the batch that it is in.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Generator, Tensor

from model.train.config import Strict

Range = tuple[float, float]
KERNEL_SIDE = 21
RESIZE_MODES = ("area", "bilinear", "bicubic")


class Order(Strict):
    """Strengths of one blur → resize → noise → JPEG round, as in Real-ESRGAN's training options."""

    blur: float = Field(default=1.0, ge=0, le=1, description="probability of the blur")
    sigma: Range = Field(default=(0.2, 3.0), description="standard deviations of the blur, in pixels")
    resize: tuple[float, float, float] = Field(default=(0.2, 0.7, 0.1), description="probability of up, down, keep")
    scale: Range = Field(default=(0.15, 1.5), description="least and most resize factor")
    noise: Range = Field(default=(1.0, 30.0), description="σ of Gaussian noise, of 255")
    poisson: Range = Field(default=(0.05, 3.0), description="scale of Poisson noise")
    grey: float = Field(default=0.4, ge=0, le=1, description="probability that the noise is the same in all channels")
    jpeg: Range = Field(default=(30.0, 95.0), description="JPEG quality")


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
    """Images [B,3,H,W] in [-1,1] → damaged small ones [B,3,H/scale,W/scale] on the 8-bit grid, in [-1,1]."""
    small = [_degrade_one((image[None] + 1) / 2, seed, config) for image, seed in zip(x, seeds, strict=True)]
    return torch.cat(small) * 2 - 1


def upsample(small: Tensor, scale: int) -> Tensor:
    """The network's input: Pillow's bicubic enlargement, on the 8-bit grid; [B,3,h,w] → [B,3,scale·h,scale·w]."""
    large = []
    for image in _to_pixels((small + 1) / 2):
        size = (image.shape[1] * scale, image.shape[0] * scale)
        large.append(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)))
    return _from_pixels(np.stack(large)) * 2 - 1


def _degrade_one(x: Tensor, seed: int, config: Degradation) -> Tensor:
    draw = _Draw(seed)
    height, width = x.shape[-2] // config.scale, x.shape[-1] // config.scale
    x = _round(x, (x.shape[-2], x.shape[-1]), config.first, config.sinc, draw)
    x = _jpeg(x, draw.uniform(config.first.jpeg))
    x = _round(x, (height, width), config.second, config.sinc, draw)
    last_jpeg_quality = draw.uniform(config.second.jpeg)
    sinc = _sinc_kernel(draw.uniform((math.pi / 3, math.pi))) if draw.chance(config.final_sinc) else None
    sinc_first = draw.chance(0.5)
    x = _resize(x, (height, width), draw)
    if sinc is not None and sinc_first:
        x = _filter(x, sinc)
    x = _jpeg(x, last_jpeg_quality)
    if sinc is not None and not sinc_first:
        x = _filter(x, sinc)
    return (x.clamp(0, 1) * 255).round() / 255


def _round(x: Tensor, reference: tuple[int, int], order: Order, sinc: float, draw: "_Draw") -> Tensor:
    """Blur, resize relative to the ``reference`` size, noise."""
    if draw.chance(order.blur):
        x = _filter(x, _blur_kernel(order.sigma, sinc, draw))
    up, down, _ = order.resize
    kind = draw.uniform((0, 1))
    factor = 1.0
    if kind < up:
        factor = draw.uniform((1, order.scale[1]))
    elif kind < up + down:
        factor = draw.uniform((order.scale[0], 1))
    x = _resize(x, (max(4, round(reference[0] * factor)), max(4, round(reference[1] * factor))), draw)
    return _noise(x, order, draw).clamp(0, 1)


class _Draw:
    """The random choices of one sample."""

    def __init__(self, seed: int) -> None:
        self.generator = Generator().manual_seed(seed)

    def uniform(self, bounds: Range) -> float:
        low, high = bounds
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def chance(self, probability: float) -> bool:
        return self.uniform((0, 1)) < probability

    def mode(self) -> str:
        return RESIZE_MODES[int(torch.randint(len(RESIZE_MODES), (), generator=self.generator))]


def _blur_kernel(sigma: Range, sinc: float, draw: _Draw) -> Tensor:
    """A sinc, or a generalised Gaussian exp(−½(uᵀΣ⁻¹u)^β), isotropic or stretched and turned; [k,k], sums to 1."""
    if draw.chance(sinc):
        return _sinc_kernel(draw.uniform((math.pi / 4, math.pi)))
    sigma_x, angle = draw.uniform(sigma), draw.uniform((-math.pi, math.pi))
    sigma_y = sigma_x if draw.chance(0.6) else draw.uniform(sigma)
    beta = draw.uniform((0.5, 4.0)) if draw.chance(0.15) else 1.0
    y, x = _grid()
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = torch.exp(-0.5 * ((u / sigma_x) ** 2 + (v / sigma_y) ** 2) ** beta)
    return kernel / kernel.sum()


def _sinc_kernel(cutoff: float) -> Tensor:
    """The ideal circular low-pass ω·J₁(ωr)/(2πr), cut to the window; [k,k], sums to 1."""
    y, x = _grid()
    radius = torch.sqrt(x**2 + y**2).clamp(min=1e-6)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[KERNEL_SIDE // 2, KERNEL_SIDE // 2] = cutoff**2 / (4 * math.pi)
    normalized: Tensor = kernel / kernel.sum()
    return normalized


def _grid() -> tuple[Tensor, Tensor]:
    steps = torch.arange(KERNEL_SIDE, dtype=torch.float32) - KERNEL_SIDE // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return y, x


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    pad = KERNEL_SIDE // 2
    weights = kernel.expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, (pad, pad, pad, pad), "replicate"), weights, groups=3)


def _resize(x: Tensor, size: tuple[int, int], draw: _Draw) -> Tensor:
    return F.interpolate(x, size, mode=draw.mode())


def _noise(x: Tensor, order: Order, draw: _Draw) -> Tensor:
    """Gaussian or Poisson noise, with equal chance."""
    grey = draw.chance(order.grey)
    if draw.chance(0.5):
        shape = x[:, :1].shape if grey else x.shape
        return x + torch.randn(shape, generator=draw.generator) * draw.uniform(order.noise) / 255
    signal = (x.mean(1, keepdim=True) if grey else x).clamp(0, 1)
    # As many photon levels as grey levels that really occur, as Real-ESRGAN has it.
    levels = 2 ** math.ceil(math.log2(len(torch.unique((signal * 255).round()))))
    noise = torch.poisson(signal * levels, generator=draw.generator) / levels - signal
    noisy: Tensor = x + noise * draw.uniform(order.poisson)
    return noisy


def _jpeg(x: Tensor, quality: float) -> Tensor:
    """Through a real JPEG file: Pillow's encoder with its usual chroma subsampling."""
    file = io.BytesIO()
    Image.fromarray(_to_pixels(x)[0]).save(file, "JPEG", quality=round(quality))
    with Image.open(file) as image:
        return _from_pixels(np.asarray(image)[None])


def _to_pixels(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """[B,3,H,W] in [0,1] → [B,H,W,3] uint8."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _from_pixels(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """[B,H,W,3] uint8 → [B,3,H,W] in [0,1]."""
    x: Tensor = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
    return x
