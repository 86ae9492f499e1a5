"""Latent Distribution Refinement: the low-quality latent is to look like a noisy latent at the mid-timestep.

Eq. 10 and 11 compare z_L with √ᾱ·z_0 + √(1−ᾱ)·ε and (1−σ)·z_0 + σ·ε for a fresh ε ~ N(0,1). Here the expectation
over ε is taken exactly, ‖z_L − s·z_0‖² + n²: the same gradient on average, without the variance of sampling.
"""

from torch import Tensor


def ldr(z_l: Tensor, z_0: Tensor, signal: float, noise: float) -> Tensor:
    """Mean over all elements of latents [B,C,h,w]: (z_L − signal·z_0)² + noise².

    ``signal`` and ``noise`` are the schedule's at the mid-timestep: √ᾱ and √(1−ᾱ) (eq. 10), or 1−σ and σ (eq. 11).
    """
    return (z_l - signal * z_0).square().mean() + noise**2
