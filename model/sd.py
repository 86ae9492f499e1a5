"""OMGSR-S: a Stable Diffusion UNet, DDPM, ε-prediction (eq. 12)."""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from model.adapter import merge
from model.errors import ModelFilesError
from model.files import cast, load_component
from model.schedule import DDPMSchedule


class SDDenoiser:
    """ε_θ(z_L, t, c) with the prompt c fixed."""

    def __init__(self, unet: UNet2DConditionModel, schedule: DDPMSchedule, prompt_embeds: Tensor) -> None:
        self.network = unet
        self.schedule = schedule
        self.prompt_embeds = prompt_embeds
        self.latent_channels = int(unet.config.in_channels)
        self.steps = len(schedule.alpha_bar)

    def __call__(self, z_l: Tensor, t: int | Tensor) -> Tensor:
        """Predict ε for latents [B,C,h,w] at t (one, or [B]); same shape, float32."""
        prompt = self.prompt_embeds.expand(len(z_l), -1, -1)
        z = z_l.to(prompt.dtype)
        prediction: Tensor = self.network(z, t, encoder_hidden_states=prompt, return_dict=False)[0]
        return prediction.float()

    def settle(self, t: int) -> None:
        """Nothing: a UNet's time embedding is small."""

    def step(self, z_l: Tensor, prediction: Tensor, t: int) -> Tensor:
        """Eq. 12."""
        return self.schedule.step(z_l, prediction, t)


def load(
    base: Path, adapter: Path | None, prompt: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> SDDenoiser:
    """Load `base`/unet and `base`/scheduler; `prompt` needs `prompt_embeds` [1,T,C]."""
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
    return SDDenoiser(cast(unet, dtype).to(device), schedule, embeds.to(device, dtype))


def _schedule(config: Path) -> DDPMSchedule:
    if not config.is_file():
        raise ModelFilesError(f"{config} is missing: fetch or copy the base again")
    try:
        return DDPMSchedule.from_config(json.loads(config.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFilesError(f"{config} is not a schedule that OMGSR-S can use: {error}") from error
