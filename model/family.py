"""The two families behind one protocol: whatever predicts from a latent at a timestep."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from model.schedule import Schedule


class Denoiser(Protocol):
    """ε_θ or v_θ with its own one-step equation."""

    network: nn.Module
    """The diffusers model."""
    schedule: Schedule
    latent_channels: int
    steps: int
    """Timesteps of the schedule: t is 0 … steps − 1."""

    def __call__(self, z_l: Tensor, t: int | Tensor) -> Tensor:
        """Latents [B,C,h,w] float32 at t (one, or [B]) → prediction of the same shape, float32."""
        ...

    def settle(self, t: int) -> None:
        """Replace what depends on t and the prompt alone by constants, where that saves memory; then only t counts."""
        ...

    def fold(self, t: int) -> None:
        """For serving: what depends on t and the prompt alone goes into the weights. Then only t counts.

        Folding again at the same t changes nothing; at another it raises ValueError, as a call at another does.
        """
        ...

    def step(self, z_l: Tensor, prediction: Tensor, t: int) -> Tensor:
        """z_P from z_L and the prediction, any equal shapes (eq. 12, 13)."""
        ...


@dataclass(frozen=True)
class Family:
    """How a family lies on disk."""

    name: str
    module: str
    components: tuple[str, ...]
    """Folders of the base that are loaded, and therefore hashed."""
    denoiser: str
    """The denoiser's diffusers class; it lies in the first of `components`."""
    multiple: int
    """Pixels: image sides must be multiples of this."""

    def load(
        self,
        base: Path,
        adapter: Path | None,
        prompt: dict[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
        *,
        fold_at: int | None = None,
    ) -> Denoiser:
        """The family's denoiser with its adapter merged in and its prompt in place; folded at `fold_at` if given."""
        denoiser: Denoiser = import_module(self.module).load(base, adapter, prompt, dtype, device, fold_at=fold_at)
        return denoiser


FAMILIES = {
    "sd": Family("sd", "model.sd", ("unet", "vae", "scheduler"), "UNet2DConditionModel", multiple=8),
    "flux": Family("flux", "model.flux", ("transformer", "vae"), "FluxTransformer2DModel", multiple=16),
}


def family_named(name: str) -> Family:
    """The family `name`. Raises ValueError for a name that is none."""
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {name!r}")
    return FAMILIES[name]
