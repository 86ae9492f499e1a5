"""Latent Distribution Refinement: the low-quality latent is to look like a noisy latent at the mid-timestep.

Eq. 10 and 11 compare z_L with √ᾱ·z_0 + √(1−ᾱ)·ε and (1−σ)·z_0 + σ·ε for a fresh ε ~ N(0,1). Here the expectation
over ε is taken exactly, ‖z_L − s·z_0‖² + n²: the same gradient on average, without the variance of sampling.
"""

from torch import Tensor


def ldr(z_l: Tensor, z_0: Tensor, signal: float, noise: float) -> Tensor:
    """Mean over all elements of latents [B,C,h,w]: (z_L − signal·z_0)² + noise²."""
    return (z_l - signal * z_0).square().mean() + noise**2


def ddpm_ldr(z_l: Tensor, z_0: Tensor, alpha_bar: float) -> Tensor:
    """Eq. 10 at the mid-timestep whose ᾱ is ``alpha_bar``."""
    return ldr(z_l, z_0, alpha_bar**0.5, (1 - alpha_bar) ** 0.5)


def flow_ldr(z_l: Tensor, z_0: Tensor, sigma: float) -> Tensor:
    """Eq. 11 at the mid-timestep whose σ is ``sigma``."""
    return ldr(z_l, z_0, 1 - sigma, sigma)
