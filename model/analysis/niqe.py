"""NIQE, the Natural Image Quality Evaluator (Mittal, Soundararajan and Bovik 2013): no original needed, less is better.

An image is described by how its locally normalised luma (MSCN coefficients) is distributed. The fits of 96×96 blocks
at two scales give 36 numbers each; their mean and covariance are compared with those of pristine photographs:

    NIQE = √((ν₁ − ν₂)ᵀ ((Σ₁ + Σ₂)/2)⁺ (ν₁ − ν₂))

The pristine ν₁, Σ₁ are the authors' own, from the sharp blocks of 125 photographs, in `niqe_pris_params.npz`: taken
unchanged from BasicSR 1.4.2 (basicsr/metrics/niqe_pris_params.npz, Copyright 2018-2022 BasicSR Authors, Apache-2.0),
where they were converted from the authors' MATLAB release.

The protocol is the one of that release and of BasicSR: luma of BT.601 rounded to whole levels, no border cut, cropped
at right and below to whole blocks, the half scale by MATLAB's antialiased bicubic, every block of the image used.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from model.analysis.quality import luma

BLOCK = 96
SIGMA, REACH = 7 / 6, 3  # of the 7×7 Gaussian window
FLAT = 1e-9  # levels
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
PRISTINE = Path(__file__).parent / "niqe_pris_params.npz"


def niqe(images: Tensor, border: int = 0) -> Tensor:
    """Images [B,3,H,W] in [-1,1] → NIQE [B] float64, `border` pixels cut from each side first.

    Raises ValueError where an image has no two whole blocks with some texture in them.
    """
    return torch.stack([_niqe(one) for one in luma(images.double(), border)[:, 0].round()])


def _niqe(y: Tensor) -> Tensor:
    rows, columns = (side // BLOCK for side in y.shape)
    y = y[: rows * BLOCK, : columns * BLOCK]
    if rows * columns < 2:
        raise ValueError(f"NIQE needs two blocks of {BLOCK}×{BLOCK} pixels; the image is too small")
    scales = ((y, BLOCK), (half(y), BLOCK // 2))
    features = torch.cat([block_features(_blocks(mscn(plane), side)) for plane, side in scales], dim=1)
    textured = features[~features.isnan().any(1)]
    if len(textured) < 2:
        raise ValueError(f"NIQE needs two blocks of {BLOCK}×{BLOCK} pixels that are not flat")
    mean, covariance = (each.to(y.device) for each in _pristine())
    away = mean - features.nanmean(0)
    inverse: Tensor = torch.linalg.pinv((covariance + torch.cov(textured.T)) / 2)
    return (away @ inverse @ away).sqrt()


def mscn(y: Tensor) -> Tensor:
    """Mean-subtracted, contrast-normalised coefficients (y − μ)/(σ + 1) of luma [H,W] in [0,255]."""
    mean = _blur(y)
    deviation = (_blur(y * y) - mean * mean).abs().sqrt()
    away = y - mean
    # What rounding leaves in flat places is no detail, and its sign would count below.
    return torch.where(away.abs() < FLAT, 0, away) / (deviation + 1)


def half(y: Tensor) -> Tensor:
    """[H,W] of even sides at half the scale, as MATLAB's imresize makes it: bicubic, antialiased, edges mirrored."""
    distance = (torch.arange(8, dtype=y.dtype, device=y.device) - 3.5).abs() / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = torch.where(distance <= 1, near, far)
    weights = weights / weights.sum()
    for _ in range(2):
        mirrored = torch.cat([y[:, :3].flip(1), y, y[:, -3:].flip(1)], dim=1)
        y = (mirrored.unfold(1, 8, 2) @ weights).T
    return y


def block_features(blocks: Tensor) -> Tensor:
    """MSCN blocks [N,h,w] → [N,18]: shape and scale of the coefficients, four numbers of each neighbour's product.

    A flat block has no distribution: its scales are NaN.
    """
    shape, left, right, _ = _fit(blocks)
    features = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right, mean = _fit(blocks * blocks.roll(shift, (1, 2)))
        features += [shape, mean, left, right]
    return torch.stack(features, dim=1)


def _fit(samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Asymmetric generalised Gaussians for samples [N,h,w]: shape α, scales β_l and β_r, mean η, each [N]."""
    x = samples.flatten(1)
    left = _rms(x, x < 0)
    right = _rms(x, x > 0)
    ratio = left / right
    wanted = x.abs().mean(1) ** 2 / (x * x).mean(1) * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    alphas, between = (each.to(x.device) for each in _shapes())
    # A flat block takes the first shape, as in MATLAB, where the minimum of nothing but NaN is the first.
    alpha = alphas[torch.where(wanted.isnan(), 0, torch.searchsorted(between, wanted))]
    gamma1, gamma2, gamma3 = (torch.lgamma(k / alpha) for k in (1, 2, 3))
    to_beta = ((gamma1 - gamma3) / 2).exp()
    left, right = left * to_beta, right * to_beta
    return alpha, left, right, (right - left) * (gamma2 - gamma1).exp()


def _rms(x: Tensor, chosen: Tensor) -> Tensor:
    return ((x * x * chosen).sum(1) / chosen.sum(1)).sqrt()


@cache
def _shapes() -> tuple[Tensor, Tensor]:
    """Shapes α that are tried, 0.2 … 10, and the bounds between their Γ(2/α)²/(Γ(1/α)Γ(3/α)), rising with α."""
    alphas = torch.arange(200, 10_001, dtype=torch.float64) / 1000
    ratios = (2 * torch.lgamma(2 / alphas) - torch.lgamma(1 / alphas) - torch.lgamma(3 / alphas)).exp()
    return alphas, (ratios[1:] + ratios[:-1]) / 2


@cache
def _pristine() -> tuple[Tensor, Tensor]:
    with np.load(PRISTINE) as file:
        return torch.from_numpy(file["mu_pris_param"][0]), torch.from_numpy(file["cov_pris_param"])


def _blocks(plane: Tensor, side: int) -> Tensor:
    return rearrange(plane, "(row h) (column w) -> (row column) h w", h=side, w=side)


def _blur(y: Tensor) -> Tensor:
    steps = torch.arange(-REACH, REACH + 1, dtype=y.dtype, device=y.device)
    bell = torch.exp(-(steps**2) / (2 * SIGMA**2))
    bell = bell / bell.sum()
    padded = F.pad(y[None, None], (REACH,) * 4, "replicate")
    return F.conv2d(F.conv2d(padded, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))[0, 0]
