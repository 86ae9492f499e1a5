"""Trains the small base of the mini variant: an 8× VAE, then a denoiser with the DDPM objective on its latents.

``python -m model.train.base CONFIG.yaml`` runs both stages, resuming each, and exports a diffusers folder. The same
command with ``--helper`` in a second shell lends a second core, with ``--export`` it writes the last checkpoints.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from model.train.config import Photos, Stage, Strict, load_config
from model.train.data import CropSampler, load_photos, steps_seed
from model.train.loop import Loop, Losses, Role, assign, role_of
from model.train.losses.deep_feature import DeepFeatureLoss


class VaeStage(Stage):
    """The VAE's run and objective: L1 + ``colour`` · L1 of 8×8 means + ``feature`` · deep features + ``kl`` · KL."""

    colour: float = Field(default=1.0, ge=0, description="weight of the L1 of 8×8 means, against colour shifts")
    feature: float = Field(default=1.0, ge=0, description="weight of the deep-feature distance")
    kl: float = Field(default=1e-4, ge=0, description="weight of the mean KL divergence per latent value")
    noise: float = Field(0.2, ge=0, description="most noise on the latent, in standard deviations of the latent")


class BaseConfig(Strict):
    """All that ``model.train.base`` needs."""

    run: Path = Field(description="folder of checkpoints")
    export: Path = Field(description="diffusers folder that is written: vae, unet, scheduler")
    photos: Photos
    vae_model: dict[str, Any] = Field(description="arguments of diffusers' AutoencoderKL")
    unet_model: dict[str, Any] = Field(description="arguments of diffusers' UNet2DConditionModel")
    scheduler: dict[str, Any] = Field(description="arguments of diffusers' DDPMScheduler")
    prompt_tokens: int = Field(default=8, gt=0, description="length of the fixed prompt embedding")
    vae: VaeStage
    unet: Stage


def build_vae(config: BaseConfig) -> AutoencoderKL:
    """A fresh VAE whose posterior starts narrow: the decoder should not learn from pure noise at first."""
    torch.manual_seed(config.vae.seed)
    vae = AutoencoderKL(**config.vae_model)
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.latent_channels :] -= 4
    return vae


def vae_losses(vae: AutoencoderKL, x: Tensor, stage: VaeStage, feature: nn.Module, seed: int) -> Losses:
    """The VAE's objective on images [B,3,H,W] in [-1,1]."""
    generator = steps_seed(stage.seed, seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=stage.bf16):
        posterior = vae.encode(x).latent_dist
        z = posterior.sample(generator)
        # A decoder that has seen disturbed latents forgives what the one-step prediction gets wrong.
        amount = stage.noise * torch.rand(len(x), 1, 1, 1, generator=generator) * z.detach().float().std()
        decoded = vae.decode(z + amount * torch.randn(z.shape, generator=generator)).sample
    decoded = decoded.float()
    deep = feature(decoded, x)
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
    l1 = (decoded - x).abs().mean()
    colour = F.avg_pool2d(decoded - x, 8).abs().mean()
    total = l1 + stage.colour * colour + stage.feature * deep + stage.kl * kl
    return {"total": total, "l1": l1, "colour": colour, "deep": deep, "kl": kl}


def train_vae(config: BaseConfig, sampler: CropSampler, role: Role) -> AutoencoderKL:
    """The VAE with its averaged weights and ``scaling_factor`` measured on training crops."""
    vae = build_vae(config)
    feature = DeepFeatureLoss()
    params = dict(vae.named_parameters())
    loop = Loop("vae", config.vae, config.run, params, role)
    average = loop.run(
        lambda step, size, side: vae_losses(vae, sampler.batch(step, size, side), config.vae, feature, step)
    )
    assign(params, average)
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=measured_scaling(vae, sampler))
    return vae


@torch.no_grad()
def measured_scaling(vae: AutoencoderKL, sampler: CropSampler) -> float:
    """1/std of the latents of 256 training crops: the denoiser and eq. 2 want unit variance."""
    latents = [vae.encode(sampler.batch(2**31 + i, 16, 128)).latent_dist.mode() for i in range(16)]
    return round(1 / torch.cat(latents).std().item(), 5)


def build_unet(config: BaseConfig) -> tuple[UNet2DConditionModel, nn.Parameter]:
    """A fresh denoiser and its prompt embedding [1,T,C], which is learned with it and then fixed."""
    torch.manual_seed(config.unet.seed + 1)
    unet = UNet2DConditionModel(**config.unet_model)
    prompt = nn.Parameter(torch.randn(1, config.prompt_tokens, unet.config.cross_attention_dim))
    return unet, prompt


def train_unet(
    config: BaseConfig, sampler: CropSampler, vae: AutoencoderKL, role: Role
) -> tuple[UNet2DConditionModel, Tensor]:
    """The denoiser with averaged weights, and the prompt embedding [1,T,C]."""
    unet, prompt = build_unet(config)
    schedule = DDPMScheduler(**config.scheduler)
    stage = config.unet

    def losses_of(step: int, size: int, side: int) -> Losses:
        """Eq. 2: the noise in z_t = √ᾱ·z_0 + √(1−ᾱ)·ε is to be found from z_t and t."""
        generator = steps_seed(stage.seed, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=stage.bf16):
            with torch.no_grad():
                z = vae.encode(sampler.batch(step, size, side)).latent_dist.mode().float()
                z = z * vae.config.scaling_factor
            t = torch.randint(schedule.config.num_train_timesteps, (size,), generator=generator)
            noise = torch.randn(z.shape, generator=generator)
            found = unet(schedule.add_noise(z, noise, t), t, prompt.expand(size, -1, -1)).sample
        return {"total": (found.float() - noise).square().mean()}

    params = {"prompt": prompt, **dict(unet.named_parameters())}
    assign(params, Loop("unet", stage, config.run, params, role).run(losses_of))
    return unet.eval().requires_grad_(False), prompt.detach()


def export(config: BaseConfig, vae: AutoencoderKL, unet: UNet2DConditionModel, prompt: Tensor) -> None:
    """Writes the diffusers folder in float16, and the prompt embedding beside the checkpoints in float32."""
    vae.half().save_pretrained(config.export / "vae")
    unet.half().save_pretrained(config.export / "unet")
    DDPMScheduler(**config.scheduler).save_pretrained(config.export / "scheduler")
    save_file({"prompt_embeds": prompt.contiguous()}, config.run / "prompt.safetensors")


def main(path: Path, role: Role) -> None:
    """Both stages and the export; a helper process only lends its core (see ``Partner``)."""
    config = load_config(path, BaseConfig)
    sampler = CropSampler(load_photos(config.photos), config.photos.min_gradient, config.vae.seed + (role == "helper"))
    vae = train_vae(config, sampler, role)
    unet, prompt = train_unet(config, sampler, vae, role)
    if role != "helper":
        export(config, vae, unet, prompt)


if __name__ == "__main__":
    main(Path(sys.argv[1]), role_of(sys.argv))
