"""Blur kernels of the degradation, each [side,side] float32 with sum 1, and their use on a batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian(side: int, sigma: tuple[float, float], angle: float = 0.0, beta: float = 1.0) -> Tensor:
    """Generalised Gaussian exp(−½·q^β), q = uᵀΣ⁻¹u, with deviations ``sigma`` along axes turned by ``angle`` (rad)."""
    return _normalized(torch.exp(-0.5 * _quadratic(side, sigma, angle) ** beta))


def plateau(side: int, sigma: tuple[float, float], angle: float = 0.0, beta: float = 1.0) -> Tensor:
    """1/(1 + q^β), q as in :func:`gaussian`: flat in the middle, the more so the larger β."""
    return _normalized(1 / (1 + _quadratic(side, sigma, angle) ** beta))


def sinc(side: int, cutoff: float) -> Tensor:
    """The ideal circular low-pass ω·J₁(ωr)/(2πr), ω = ``cutoff`` in radians per pixel, cut to the window: it rings."""
    y, x = _grid(side)
    radius = torch.sqrt(x**2 + y**2)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[side // 2, side // 2] = cutoff**2 / (4 * math.pi)  # the limit at r = 0
    return _normalized(kernel)


def pulse(side: int) -> Tensor:
    """The kernel that changes nothing."""
    kernel = torch.zeros(side, side)
    kernel[side // 2, side // 2] = 1
    return kernel


def widen(kernel: Tensor, side: int) -> Tensor:
    """``kernel`` in the middle of a [side,side] window of zeros; both sides odd."""
    return F.pad(kernel, [(side - kernel.shape[-1]) // 2] * 4)


def convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Images [B,3,H,W], each filtered with its own kernel of ``kernels`` [B,side,side]; edges repeat outwards."""
    # Reflection, the more usual choice, cannot pad an image that is smaller than half the kernel.
    pad = kernels.shape[-1] // 2
    channels = F.pad(x, (pad, pad, pad, pad), "replicate").flatten(0, 1)[None]
    weights = kernels.to(x).repeat_interleave(x.shape[1], 0)[:, None]
    return F.conv2d(channels, weights, groups=len(weights)).view(x.shape)


def _quadratic(side: int, sigma: tuple[float, float], angle: float) -> Tensor:
    y, x = _grid(side)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return (along / sigma[0]) ** 2 + (across / sigma[1]) ** 2


def _grid(side: int) -> tuple[Tensor, Tensor]:
    steps = torch.arange(side, dtype=torch.float32) - side // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return y, x


def _normalized(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()
