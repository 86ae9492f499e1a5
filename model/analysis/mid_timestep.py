"""Which timestep's noisy latents are most like the latents of damaged photos: eq. 9, and the SNR criterion.

With z_t = s_t·z_0 + n_t·ε (DDPM: s = √ᾱ, n = √(1−ᾱ); flow: s = 1−σ, n = σ) all criteria follow, for every t at once,
from running sums over the data. docs/mid-timestep.md derives them and says why eq. 9 is not the default.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from model.errors import DataError, ModelFilesError
from model.schedule import DDPMSchedule, FlowSchedule

Schedule = DDPMSchedule | FlowSchedule
Criterion = Literal["snr", "snr-gap", "eq9"]


def snr_timestep(schedule: Schedule, distance: float) -> int:
    """The t whose noise is to its signal as z_L − z_0 is to z_0; `distance` is d = mean (z_L − z_0)², d > 0.

    DDPM: ᾱ = 1/(1+d). Flow: σ = √d/(1+√d). Both say s²/n² = 1/d.
    """
    match schedule:
        case DDPMSchedule():
            gap = schedule.alpha_bar - 1 / (1 + distance)
        case FlowSchedule():
            gap = schedule.sigmas - distance**0.5 / (1 + distance**0.5)
    return int(gap.abs().argmin())


class LatentStatistics:
    """Running sums over pairs (z_L, z_0), float64: every picture counts the same, in whatever batches it comes."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.signal, self.noise = (
            factor.double() for factor in schedule.signal_noise(torch.arange(steps_of(schedule)))
        )
        self.pairs = 0
        self._moments = torch.zeros(3, dtype=torch.float64)
        self._gaps = torch.zeros_like(self.signal)

    def update(self, z_l: Tensor, z_0: Tensor) -> None:
        """Count in the scaled latents [B,C,h,w] of B damaged photos and of their originals.

        Raises DataError if a photo and its original have the same latent: its SNR is infinite.
        """
        snr = (self.signal / self.noise).square()
        for low, high in zip(z_l.double().cpu(), z_0.double().cpu(), strict=True):
            power, distance = high.square().mean(), (low - high).square().mean()
            if not distance:
                raise DataError(f"pair {self.pairs + 1}: both photos have one latent, so there is no gap to measure")
            self._moments += torch.stack([low.square().mean(), (low * high).mean(), power])
            # SNR_L = Σz_0²/Σ(z_L−z_0)² against that of z_t, s²Σz_0²/(n²Σε²), where the mean ε² is 1
            self._gaps += (power / distance - snr * power).abs()
            self.pairs += 1

    @property
    def distance(self) -> float:
        """d = mean (z_L − z_0)²."""
        z_l2, product, z_02 = self._means().tolist()
        return float(z_l2 - 2 * product + z_02)

    def eq9(self) -> Tensor:
        """[T] float64, eq. 9 as printed with ε's expectation taken: mean ‖z_L − s_t·z_0‖² + n_t², per element."""
        z_l2, product, z_02 = self._means()
        curve: Tensor = z_l2 - 2 * self.signal * product + self.signal**2 * z_02 + self.noise**2
        return curve

    def snr_gap(self) -> Tensor:
        """[T] float64, the mean over the pairs of |SNR_L − SNR_t|, as the authors' later search has it."""
        return self._gaps / self._count()

    def timesteps(self) -> dict[Criterion, int]:
        """The t that each criterion chooses."""
        return {
            "snr": snr_timestep(self.schedule, self.distance),
            "snr-gap": int(self.snr_gap().argmin()),
            "eq9": int(self.eq9().argmin()),
        }

    def _means(self) -> Tensor:
        return self._moments / self._count()

    def _count(self) -> int:
        if not self.pairs:
            raise DataError("no pair of latents was counted yet")
        return self.pairs


@dataclass(frozen=True)
class Finding:
    """What a search found, as its YAML file holds it."""

    base: str
    family: str
    criterion: Criterion
    mid_timestep: int
    noise_level: dict[str, float]
    """`alpha_bar` or `sigma` at the mid-timestep."""
    distance: float
    """d = mean (z_L − z_0)²."""
    pairs: int
    timesteps: dict[Criterion, int]
    """By every criterion."""

    @classmethod
    def of(cls, statistics: LatentStatistics, criterion: Criterion, *, base: str, family: str) -> "Finding":
        """What `statistics` say by `criterion`."""
        timesteps = statistics.timesteps()
        t = timesteps[criterion]
        match statistics.schedule:
            case DDPMSchedule(alpha_bar=levels):
                name = "alpha_bar"
            case FlowSchedule(sigmas=levels):
                name = "sigma"
        level = {name: round(levels[t].item(), 6)}
        return cls(base, family, criterion, t, level, statistics.distance, statistics.pairs, timesteps)


def schedule_of(family: str, base: Path) -> Schedule:
    """The schedule of a base in a diffusers folder, without loading its denoiser.

    Raises ModelFilesError if the scheduler's config is missing or of a kind that eq. 12 is not about.
    """
    if family == "flux":
        return FlowSchedule.flux()
    config = base / "scheduler" / "scheduler_config.json"
    try:
        return DDPMSchedule.from_config(json.loads(config.read_text()))
    except OSError as error:
        raise ModelFilesError(f"{config} is missing: fetch or copy the base again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFilesError(f"{config} is not a schedule that OMGSR-S can use: {error}") from error


def steps_of(schedule: Schedule) -> int:
    """T: timesteps are 0 … T − 1."""
    return len(schedule.alpha_bar if isinstance(schedule, DDPMSchedule) else schedule.sigmas)
