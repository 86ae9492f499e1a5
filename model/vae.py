"""The autoencoder of both families: pixels ↔ scaled latents, deterministic."""

from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from model.adapter import merge
from model.files import cast, load_component


class VAE(nn.Module):
    """E and D around a diffusers `AutoencoderKL`; latents are (mean − shift)·scaling."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.scaling: float = autoencoder.config.scaling_factor
        self.shift: float = autoencoder.config.shift_factor or 0.0

    @classmethod
    def load(cls, base: Path, adapter: Path | None, dtype: torch.dtype) -> Self:
        """Load `base`/vae; `adapter`, relative to the *encoder* as the authors save it, is merged in float32."""
        autoencoder = load_component(AutoencoderKL, base / "vae")
        if adapter is not None:
            merge(autoencoder.encoder, adapter, dtype)
        return cls(cast(autoencoder, dtype))

    @property
    def latent_channels(self) -> int:
        """C of a latent [C,h,w]."""
        return int(self.autoencoder.config.latent_channels)

    def encode(self, x: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] → [B,C,H/8,W/8] scaled latent, float32: the posterior's mode, never a sample."""
        mean: Tensor = self.autoencoder.encode(x.to(self.autoencoder.dtype)).latent_dist.mode()
        return (mean.float() - self.shift) * self.scaling

    def decode(self, z: Tensor) -> Tensor:
        """[B,C,h,w] scaled latent → [B,3,8h,8w] float32, around [-1,1] and not clamped."""
        latent = (z / self.scaling + self.shift).to(self.autoencoder.dtype)
        decoded: Tensor = self.autoencoder.decode(latent, return_dict=False)[0]
        return decoded.float()
