"""Trains the small base of a mini variant: an 8× VAE, then a denoiser on its latents (DDPM or flow matching).

``python -m model.train.base CONFIG.yaml`` runs the stages that the config holds, resuming each, and exports a
diffusers folder.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, FluxTransformer2DModel, UNet2DConditionModel
from pydantic import Field, model_validator
from safetensors.torch import save_file
from torch import Tensor, nn

from model.family import FAMILIES
from model.flux import FluxDenoiser
from model.schedule import DDPMSchedule, FlowSchedule
from model.sd import SDDenoiser
from model.train.config import Stage, Strict, load_config
from model.train.data import Crops, Data, PhotoSet, steps_seed
from model.train.loop import Loop, Losses, assign
from model.train.losses.deep_feature import DeepFeatureLoss


class VaeStage(Stage):
    """The VAE's run and objective: L1 + ``colour`` · L1 of 8×8 means + ``feature`` · deep features + ``kl`` · KL."""

    colour: float = Field(default=1.0, ge=0, description="weight of the L1 of 8×8 means, against colour shifts")
    feature: float = Field(default=1.0, ge=0, description="weight of the deep-feature distance")
    kl: float = Field(default=1e-4, ge=0, description="weight of the mean KL divergence per latent value")
    noise: float = Field(0.2, ge=0, description="most noise on the latent, in standard deviations of the latent")


class BaseConfig(Strict):
    """All that ``model.train.base`` needs."""

    family: Literal["sd", "flux"] = Field(description="what the denoiser is: a UNet with DDPM, or a DiT with flow")
    run: Path = Field(description="folder of checkpoints")
    export: Path = Field(description="diffusers folder that is written: vae, denoiser, scheduler")
    data: Data
    vae_from: Path | None = Field(default=None, description="a finished VAE's folder, in place of vae_model and vae")
    vae_model: dict[str, Any] = Field(default={}, description="arguments of diffusers' AutoencoderKL")
    vae: VaeStage | None = None
    denoiser_model: dict[str, Any] = Field(description="arguments of the family's diffusers class")
    scheduler: dict[str, Any] = Field(default={}, description="arguments of diffusers' DDPMScheduler (family sd)")
    prompt_tokens: int = Field(default=8, gt=0, description="length of the fixed prompt embedding")
    denoiser: Stage

    @model_validator(mode="after")
    def _one_vae(self) -> Self:
        if (self.vae is None) == (self.vae_from is None):
            raise ValueError("give exactly one of vae (with vae_model) and vae_from")
        return self


def crops(photos: PhotoSet, seed: int, step: int, size: int, side: int) -> Tensor:
    """The images of a step [size,3,side,side] in [-1,1]; batches are smaller than 64, so none comes twice."""
    return Crops(photos, side, seed).images(step * 64, size)


def build_vae(config: BaseConfig) -> AutoencoderKL:
    """A fresh VAE whose posterior starts narrow: the decoder should not learn from pure noise at first."""
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


def train_vae(config: BaseConfig, photos: PhotoSet) -> AutoencoderKL:
    """The VAE with its averaged weights and ``scaling_factor`` measured on training crops; or the finished one."""
    if config.vae is None:
        return AutoencoderKL.from_pretrained(config.vae_from, torch_dtype=torch.float32).eval().requires_grad_(False)
    stage = config.vae
    torch.manual_seed(stage.seed)
    vae = build_vae(config)
    feature = DeepFeatureLoss()
    params = dict(vae.named_parameters())
    loop = Loop("vae", stage, config.run, params)
    average = loop.run(
        lambda step, size, side: vae_losses(vae, crops(photos, stage.seed, step, size, side), stage, feature, step)
    )
    assign(params, average)
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=measured_scaling(vae, photos))
    return vae


@torch.no_grad()
def measured_scaling(vae: AutoencoderKL, photos: PhotoSet) -> float:
    """1/std of the latents of 256 training crops: the denoiser and eq. 2 want unit variance."""
    latents = [vae.encode(crops(photos, 0, 2**31 + i, 16, 128)).latent_dist.mode() for i in range(16)]
    return round(1 / torch.cat(latents).std().item(), 5)


def build_denoiser(config: BaseConfig) -> tuple[SDDenoiser | FluxDenoiser, dict[str, nn.Parameter]]:
    """A fresh denoiser, and all that is learned: its weights, and the prompt's embeddings, which are then fixed."""
    torch.manual_seed(config.denoiser.seed + 1)
    if config.family == "sd":
        unet = UNet2DConditionModel(**config.denoiser_model)
        prompt = nn.Parameter(torch.randn(1, config.prompt_tokens, unet.config.cross_attention_dim))
        schedule = DDPMSchedule.from_config(DDPMScheduler(**config.scheduler).config)
        return SDDenoiser(unet, schedule, prompt), {"prompt_embeds": prompt, **dict(unet.named_parameters())}
    transformer = FluxTransformer2DModel(**config.denoiser_model)
    prompt = nn.Parameter(torch.randn(1, config.prompt_tokens, transformer.config.joint_attention_dim))
    pooled = nn.Parameter(torch.randn(1, transformer.config.pooled_projection_dim))
    denoiser = FluxDenoiser(transformer, FlowSchedule.flux(), prompt, pooled)
    learned = {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled, **dict(transformer.named_parameters())}
    return denoiser, learned


def train_denoiser(
    config: BaseConfig, photos: PhotoSet, vae: AutoencoderKL
) -> tuple[SDDenoiser | FluxDenoiser, dict[str, Tensor]]:
    """The denoiser with averaged weights, and the prompt's embeddings."""
    denoiser, params = build_denoiser(config)
    stage, schedule = config.denoiser, denoiser.schedule

    def losses_of(step: int, size: int, side: int) -> Losses:
        """Eq. 2 and 4: what was mixed into z_t = signal·z_0 + noise·ε is to be found from z_t and t."""
        generator = steps_seed(stage.seed, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=stage.bf16):
            with torch.no_grad():
                z = vae.encode(crops(photos, stage.seed, step, size, side)).latent_dist.mode().float()
                z = z * vae.config.scaling_factor
            t = torch.randint(denoiser.steps, (size,), generator=generator)
            epsilon = torch.randn(z.shape, generator=generator)
            signal, noise = (factor.view(-1, 1, 1, 1) for factor in schedule.signal_noise(t))
            found = denoiser(signal * z + noise * epsilon, t)
        return {"total": (found - schedule.target(z, epsilon)).square().mean()}

    assign(params, Loop("denoiser", stage, config.run, params).run(losses_of))
    return denoiser, {name: params[name].detach() for name in params if name.endswith("prompt_embeds")}


def export(
    config: BaseConfig, vae: AutoencoderKL, denoiser: SDDenoiser | FluxDenoiser, prompt: dict[str, Tensor]
) -> None:
    """Writes the diffusers folder in float16, and the prompt embeddings beside the checkpoints in float32."""
    if config.vae_from is None:
        vae.half().save_pretrained(config.export / "vae")
    else:  # as it is: diffusers would write the path that it was loaded from into it, and change its hash
        shutil.copytree(config.vae_from, config.export / "vae", dirs_exist_ok=True)
    network: Any = denoiser.network.half()
    network.save_pretrained(config.export / FAMILIES[config.family].components[0])
    if config.family == "sd":
        DDPMScheduler(**config.scheduler).save_pretrained(config.export / "scheduler")
    save_file({name: tensor.contiguous() for name, tensor in prompt.items()}, config.run / "prompt.safetensors")


def main(path: Path) -> None:
    """The stages and the export."""
    config = load_config(path, BaseConfig)
    photos = PhotoSet(config.data, config.run)
    vae = train_vae(config, photos)
    export(config, vae, *train_denoiser(config, photos, vae))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
