"""OMGSR's networks as they are trained: a base with adapters on the VAE's encoder and on the denoiser."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from model.schedule import DDPMSchedule

TARGETS = (
    "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_out", "conv_shortcut",
)  # fmt: skip
"""The modules that the authors adapt, in both networks."""


class Omgsr(nn.Module):
    """E, ε_θ and D of family S, with LoRA on the first two and D frozen."""

    encoder: PeftModel
    prompt: Tensor

    def __init__(self, base: Path, prompt: Path, encoder_rank: int, denoiser_rank: int) -> None:
        super().__init__()
        vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32).requires_grad_(False)
        unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).requires_grad_(False)
        scheduler = json.loads((base / "scheduler" / "scheduler_config.json").read_text())
        self.schedule = DDPMSchedule.from_config(scheduler)
        self.vae = vae
        self.vae.encoder = self.encoder = adapted(vae.encoder, encoder_rank)
        self.unet = adapted(unet, denoiser_rank)
        self.scaling: float = vae.config.scaling_factor
        self.register_buffer("prompt", load_file(prompt)["prompt_embeds"].float())

    def adapters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by name."""
        return {name: param for name, param in self.named_parameters() if param.requires_grad}

    def encode(self, x: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] → scaled latents [B,C,H/8,W/8]: the posterior's mode, never a sample."""
        mode: Tensor = self.vae.encode(x).latent_dist.mode()
        return mode.float() * self.scaling

    @torch.no_grad()
    def encode_original(self, x: Tensor) -> Tensor:
        """z_0: the same encoder with its adapter off."""
        with self.encoder.disable_adapter():
            return self.encode(x)

    def predict(self, z_l: Tensor, t: int) -> Tensor:
        """z_P by one mid-timestep prediction, eq. 12."""
        epsilon = self.unet(z_l, t, self.prompt.expand(len(z_l), -1, -1)).sample
        return self.schedule.step(z_l, epsilon.float(), t)

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents → images [B,3,H,W] around [-1,1]."""
        decoded: Tensor = self.vae.decode(z / self.scaling).sample
        return decoded.float()

    def save_adapters(self, folder: Path) -> None:
        """The authors' PEFT folders, in float16."""
        with half_precision(self):
            self.encoder.save_pretrained(folder / "vae_encoder_lora_adapter")
            self.unet.save_pretrained(folder / "unet_lora_adapter")
        for readme in folder.glob("*_adapter/README.md"):
            readme.unlink()  # peft writes an empty model card template


def adapted(network: nn.Module, rank: int) -> PeftModel:
    """``network`` with LoRA of scale 1 on every target module."""
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
    model = get_peft_model(network, config)
    model.peft_config["default"].base_model_name_or_path = None  # a path of the training machine otherwise
    return model


@contextmanager
def half_precision(model: nn.Module) -> Iterator[None]:
    """``model`` in float16 inside, in float32 again after."""
    model.half()
    try:
        yield
    finally:
        model.float()


def snr_timestep(schedule: DDPMSchedule, distance: float) -> int:
    """The t whose noise is to its signal as z_L − z_0 is to z_0: ᾱ = 1/(1+d), d = mean (z_L − z_0)².

    Latents must have unit variance. Eq. 9 as printed has its least value at t ≈ 0 instead, so it is not used.
    """
    return int((schedule.alpha_bar - 1 / (1 + distance)).abs().argmin())
