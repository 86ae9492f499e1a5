"""The noise schedules of both families and their one-step equations."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class DDPMSchedule:
    """DDPM: z_t = √ᾱ_t·z_0 + √(1−ᾱ_t)·ε (eq. 1)."""

    alpha_bar: Tensor
    """[T] float32, ᾱ_t for t = 0 … T−1, falling from nearly 1 to nearly 0."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the betas out of a diffusers scheduler config.

        SD-Turbo ships the config of an Euler sampler: only its betas and its kind of prediction count here.
        Raises ValueError for betas or predictions that eq. 12 is not about.
        """
        if config.get("prediction_type", "epsilon") != "epsilon":
            raise ValueError(f"eq. 12 needs an ε-prediction; this base predicts {config['prediction_type']!r}")
        if config["beta_schedule"] != "scaled_linear":
            raise ValueError(f"beta_schedule must be 'scaled_linear', not {config['beta_schedule']!r}")
        root = torch.linspace(
            config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["num_train_timesteps"], dtype=torch.float32
        )
        return cls(torch.cumprod(1.0 - root**2, dim=0))

    def signal_noise(self, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1−ᾱ_t), each of t's shape: z_t = signal·z_0 + noise·ε."""
        alpha_bar = self.alpha_bar[t]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def target(self, _z_0: Tensor, noise: Tensor) -> Tensor:
        """What the network is trained to predict: ε (eq. 2)."""
        return noise

    def step(self, z_l: Tensor, prediction: Tensor, t: int) -> Tensor:
        """z_P = (z_L − √(1−ᾱ)·ε_θ) / √ᾱ (eq. 12)."""
        alpha_bar = self.alpha_bar[t].to(z_l.device)
        return (z_l - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()


@dataclass(frozen=True)
class FlowSchedule:
    """Flow matching: z_t = (1−σ_t)·z_0 + σ_t·ε (eq. 3), with FLUX's shifted σ."""

    sigmas: Tensor
    """[1000] float32, σ_t for t = 0 … 999, rising from 0 to 1."""

    @classmethod
    def flux(cls, sequence_length: int = 4096) -> Self:
        """999 linear steps shifted by μ, which is linear in the number of image tokens (0.5 at 256, 1.15 at 4096)."""
        mu = 0.5 + (1.15 - 0.5) * (sequence_length - 256) / (4096 - 256)
        linear = torch.linspace(1, 0, 1000).flip(0)
        return cls(math.exp(mu) / (math.exp(mu) + (1 / linear - 1)))

    def signal_noise(self, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """1−σ_t and σ_t, each of t's shape: z_t = signal·z_0 + noise·ε."""
        sigma = self.sigmas[t]
        return 1 - sigma, sigma

    def target(self, z_0: Tensor, noise: Tensor) -> Tensor:
        """What the network is trained to predict: v = ε − z_0 (eq. 4)."""
        return noise - z_0

    def step(self, z_l: Tensor, prediction: Tensor, t: int) -> Tensor:
        """z_P = z_L − σ·v_θ (eq. 13)."""
        return z_l - self.sigmas[t].to(z_l.device) * prediction


Schedule = DDPMSchedule | FlowSchedule
