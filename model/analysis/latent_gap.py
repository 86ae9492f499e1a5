"""The gap of figure 4: how far the latents of a real inference are from the noisy latents that pre-training showed.

Inference starts at pure noise ε and takes few steps. Its input z̄_t at each step is compared with the forward-noised
z_t = s_t·z_0 + n_t·ε (eq. 1, 3) of the z_0 that it ends with and of the ε that it began with: eq. 5 and 6 say that
they nearly agree. Noise thrown in on the way (R.N.@level) makes them part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from model.analysis.mid_timestep import Schedule
from model.family import Denoiser

STEPS = 20


@dataclass(frozen=True)
class Disturbance:
    """Noise thrown into z̄_t on the way: z̄_t + level·N(0, 1)."""

    level: float
    """Standard deviation; 0 leaves the inference alone."""
    steps_left: int = 16
    """Where: before the step at which so many are left, counted down to the image as the paper counts t."""
    seed: int = 1

    def of(self, z: Tensor) -> Tensor:
        """Noise for latents like `z`; the same direction at every level."""
        return self.level * torch.randn(z.shape, generator=Generator().manual_seed(self.seed)).to(z)


@dataclass(frozen=True)
class Trajectory:
    """One inference."""

    timesteps: tuple[int, ...]
    """[S], falling."""
    latents: Tensor
    """[S+1,B,C,h,w] float32: what the denoiser saw at each timestep, then z_0."""
    gaps: tuple[float, ...]
    """[S], mean (z̄_t − z_t)²."""


def inference_timesteps(steps: int, total: int) -> tuple[int, ...]:
    """`steps` timesteps from total − 1 down, spaced evenly and ending one space above the image ("trailing")."""
    if not 1 <= steps <= total:
        raise ValueError(f"steps must be 1 … {total}, got {steps}")
    return tuple(round(total * (steps - i) / steps) - 1 for i in range(steps))


@torch.no_grad()
def trajectory(
    denoiser: Denoiser, schedule: Schedule, epsilon: Tensor, timesteps: Sequence[int], disturbance: Disturbance
) -> Trajectory:
    """Inference from the noise `epsilon` [B,C,h,w] by the family's deterministic sampler.

    z_0 by the one-step equation (12, 13), the noise that z̄_t is made of by what remains, both mixed again for the
    next t. For DDPM that is DDIM with η = 0, for flow matching it is Euler's method.
    """
    latents, z = [], epsilon
    for i, t in enumerate(timesteps):
        if disturbance.level and len(timesteps) - i == disturbance.steps_left:
            z = z + disturbance.of(z)
        latents.append(z)
        z_0 = denoiser.step(z, denoiser(z, t), t)
        z = z_0
        if i + 1 < len(timesteps):
            signal, noise = _factors(schedule, t, z_0)
            next_signal, next_noise = _factors(schedule, timesteps[i + 1], z_0)
            z = next_signal * z_0 + next_noise * (latents[-1] - signal * z_0) / noise
    gaps = tuple(latent_gap(seen, z, epsilon, schedule, t) for seen, t in zip(latents, timesteps, strict=True))
    return Trajectory(tuple(timesteps), torch.stack([*latents, z]), gaps)


def latent_gap(z_seen: Tensor, z_0: Tensor, epsilon: Tensor, schedule: Schedule, t: int) -> float:
    """Mean (z̄_t − (s_t·z_0 + n_t·ε))², per element."""
    signal, noise = _factors(schedule, t, z_0)
    return float((z_seen - (signal * z_0 + noise * epsilon)).square().mean())


def _factors(schedule: Schedule, t: int, like: Tensor) -> tuple[Tensor, Tensor]:
    signal, noise = schedule.signal_noise(t)
    return signal.to(like), noise.to(like)
