"""OMGSR-S: a Stable Diffusion UNet, DDPM, ε-prediction (eq. 12)."""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from model.adapter import merge
from model.errors import ModelFilesError
from model.files import cast, load_component
from model.fold.unet import fold_unet
from model.schedule import DDPMSchedule


class SDDenoiser:
    """ε_θ(z_L, t, c) with the prompt c fixed."""

    def __init__(self, unet: UNet2DConditionModel, schedule: DDPMSchedule, prompt_embeds: Tensor) -> None:
        self.network: nn.Module = unet
        self.schedule = schedule
        self.prompt_embeds = prompt_embeds
        self.latent_channels = int(unet.config.in_channels)
        self.steps = len(schedule.alpha_bar)
        self.folded_at: int | None = None

    def __call__(self, z_l: Tensor, t: int | Tensor) -> Tensor:
        """Predict ε for latents [B,C,h,w] at t (one, or [B]); same shape, float32.

        Raises ValueError for another t than the one that it was folded at.
        """
        z = z_l.to(self.prompt_embeds.dtype)
        if self.folded_at is None:
            prompt = self.prompt_embeds.expand(len(z), -1, -1)
            prediction: Tensor = self.network(z, t, encoder_hidden_states=prompt, return_dict=False)[0]
        else:
            self._check(t)
            prediction = self.network(z)
        return prediction.float()

    def settle(self, t: int) -> None:
        """Nothing: a UNet's time embedding is small."""

    def fold(self, t: int) -> None:
        """For serving: time and prompt go into the weights (`fold_unet`). From here on only t counts.

        Folding again at the same t changes nothing; raises ValueError for another one.
        """
        if self.folded_at is None:
            self.network, self.folded_at = fold_unet(self.network, t, self.prompt_embeds), t
        self._check(t)

    def _check(self, t: int | Tensor) -> None:
        asked = t.flatten().tolist() if isinstance(t, Tensor) else [t]
        if any(each != self.folded_at for each in asked):
            raise ValueError(f"this model was folded at timestep {self.folded_at} and has no other; asked for {t}")

    def step(self, z_l: Tensor, prediction: Tensor, t: int) -> Tensor:
        """Eq. 12."""
        return self.schedule.step(z_l, prediction, t)


def load(
    base: Path,
    adapter: Path | None,
    prompt: dict[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    *,
    fold_at: int | None = None,
) -> SDDenoiser:
    """Load `base`/unet and `base`/scheduler; `prompt` needs `prompt_embeds` [1,T,C]. Folded at `fold_at` if given."""
    unet = load_component(UNet2DConditionModel, base / "unet")
    if adapter is not None:
        merge(unet, adapter, dtype)
    schedule = _schedule(base / "scheduler" / "scheduler_config.json")
    embeds = prompt["prompt_embeds"]
    if embeds.shape[-1] != unet.config.cross_attention_dim:
        raise ModelFilesError(
            f"prompt_embeds have {embeds.shape[-1]} channels, this UNet reads {unet.config.cross_attention_dim}: "
            "embed the prompt with this base's own text encoder (omgsr models embed-prompt)"
        )
    denoiser = SDDenoiser(cast(unet, dtype).to(device), schedule, embeds.to(device, dtype))
    if fold_at is not None:
        denoiser.fold(fold_at)
    return denoiser


def _schedule(config: Path) -> DDPMSchedule:
    if not config.is_file():
        raise ModelFilesError(f"{config} is missing: fetch or copy the base again")
    try:
        return DDPMSchedule.from_config(json.loads(config.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFilesError(f"{config} is not a schedule that OMGSR-S can use: {error}") from error
