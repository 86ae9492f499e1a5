"""OMGSR's training: adapters on the VAE's encoder and the denoiser, one mid-timestep prediction, a frozen decoder.

``python -m model.train.trainer CONFIG.yaml`` trains, resuming, and writes a variant folder. The same command with
``--helper`` in a second shell lends a second core; with ``--export`` it writes the variant from the last checkpoint.
"""

import shutil
import sys
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from model.files import base_sha256, file_sha256
from model.train.config import Photos, Stage, Strict, load_config
from model.train.data import CropSampler, load_photos
from model.train.degradation import Degradation, degrade, upsample
from model.train.loop import Loop, Losses, Role, assign, role_of
from model.train.losses.deep_feature import DeepFeatureLoss
from model.train.losses.ldr import ddpm_ldr
from model.train.omgsr import Omgsr, snr_timestep
from model.variant import PROMPT, Base, Prompt, Variant


class Weights(Strict):
    """How much each term counts."""

    ldr: float = Field(default=5.0, ge=0, description="latent distribution refinement, eq. 10")
    mse: float = Field(default=2.0, ge=0, description="squared error of pixels in [-1,1]")
    feature: float = Field(default=5.0, ge=0, description="deep-feature distance, in LPIPS' place")


class VariantFields(Strict):
    """What variant.json says beside what is measured."""

    name: str
    native_size: int = Field(default=512, gt=0, multiple_of=64)
    color_fix: Literal["adain", "wavelet", "none"]
    prompt: str = Field(description="what the fixed embedding stands for")
    license: str


class TrainConfig(Strict):
    """All that ``model.train.trainer`` needs."""

    run: Path = Field(description="folder of checkpoints")
    base: Path = Field(description="diffusers folder: vae, unet, scheduler")
    base_id: str
    base_revision: str
    prompt: Path = Field(description="safetensors file with prompt_embeds [1,T,C]")
    export: Path = Field(description="variant folder that is written")
    photos: Photos
    degradation: Degradation = Degradation()
    mid_timestep: int | None = Field(default=None, ge=0, description="null: measured by the SNR criterion")
    encoder_rank: int = Field(default=16, gt=0)
    denoiser_rank: int = Field(default=64, gt=0)
    weights: Weights = Weights()
    variant: VariantFields
    stage: Stage


class Pairs:
    """Seeded batches of (x_L, x_H): x_L is degraded, then enlarged back to the size of x_H."""

    def __init__(self, sampler: CropSampler, degradation: Degradation) -> None:
        self.sampler, self.degradation = sampler, degradation

    def batch(self, step: int, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Two tensors [size,3,side,side] in [-1,1]."""
        x_h = self.sampler.batch(step, size, side)
        first = (self.sampler.seed * 1_000_003 + step) * 64  # batches are smaller than 64, so no seed comes twice
        x_l = upsample(degrade(x_h, range(first, first + size), self.degradation), self.degradation.scale)
        return x_l, x_h


def omgsr_losses(model: Omgsr, x_l: Tensor, x_h: Tensor, *, t: int, weights: Weights, feature: nn.Module) -> Losses:
    """The objective on one batch of image pairs [B,3,H,W] in [-1,1]."""
    z_0 = model.encode_original(x_h)
    z_l = model.encode(x_l)
    x_p = model.decode(model.predict(z_l, t))
    ldr = ddpm_ldr(z_l, z_0, model.schedule.alpha_bar[t].item())
    mse = (x_p - x_h).square().mean()
    deep = feature(x_p, x_h)
    total = weights.ldr * ldr + weights.mse * mse + weights.feature * deep
    return {"total": total, "ldr": ldr, "mse": mse, "deep": deep}


@torch.no_grad()
def measured_timestep(model: Omgsr, pairs: Pairs) -> int:
    """The mid-timestep of the untrained adapters, over 64 crops of 256 px that training does not draw."""
    batches = (pairs.batch(2**31 + step, 8, 256) for step in range(8))
    gaps = [(model.encode_original(x_l) - model.encode_original(x_h)).square().mean() for x_l, x_h in batches]
    return snr_timestep(model.schedule, torch.stack(gaps).mean().item())


def train(config: TrainConfig, role: Role) -> tuple[Omgsr, int]:
    """The model with averaged adapters, and its mid-timestep."""
    torch.manual_seed(config.stage.seed)
    model = Omgsr(config.base, config.prompt, config.encoder_rank, config.denoiser_rank)
    photos, least = load_photos(config.photos), config.photos.min_gradient
    t = config.mid_timestep
    if t is None:
        t = measured_timestep(model, Pairs(CropSampler(photos, least, config.stage.seed), config.degradation))
    pairs = Pairs(CropSampler(photos, least, config.stage.seed + (role == "helper")), config.degradation)
    print(f"mid-timestep {t}", flush=True)  # noqa: T201
    feature = DeepFeatureLoss()

    def losses_of(step: int, size: int, side: int) -> Losses:
        x_l, x_h = pairs.batch(step, size, side)  # outside autocast: wide blurs in bfloat16 take seconds on a CPU
        with torch.autocast("cpu", torch.bfloat16, enabled=config.stage.bf16):
            return omgsr_losses(model, x_l, x_h, t=t, weights=config.weights, feature=feature)

    params = model.adapters()
    assign(params, Loop("omgsr", config.stage, config.run, params, role).run(losses_of))
    return model, t


def export(config: TrainConfig, model: Omgsr, t: int) -> None:
    """Writes the variant folder: adapters, prompt, variant.json; the model card is written by hand."""
    config.export.mkdir(parents=True, exist_ok=True)
    model.save_adapters(config.export)
    shutil.copyfile(config.prompt, config.export / PROMPT)
    fields = config.variant
    tile = fields.native_size // 8
    Variant(
        name=fields.name,
        family="sd",
        base=Base(
            id=config.base_id,
            revision=config.base_revision,
            sha256=base_sha256(config.base, ("unet", "vae", "scheduler")),
        ),
        mid_timestep=t,
        native_size=fields.native_size,
        process_size=fields.native_size,
        tile=tile,
        overlap=tile // 2,
        dtype="float32",
        color_fix=fields.color_fix,
        prompt=Prompt(text=fields.prompt, sha256=file_sha256(config.export / PROMPT)),
        license=fields.license,
    ).write(config.export)


def main(path: Path, role: Role) -> None:
    """Trains and exports."""
    config = load_config(path, TrainConfig)
    model, t = train(config, role)
    if role != "helper":
        export(config, model, t)


if __name__ == "__main__":
    main(Path(sys.argv[1]), role_of(sys.argv))
