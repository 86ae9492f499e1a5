"""The autoencoder of both families: pixels ↔ scaled latents, deterministic."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from model.adapter import merge
from model.files import cast, load_component
from model.fold.autoencoder import fold_autoencoder
from model.plan import LATENT, STRIP_PIXELS
from model.strips.pages import Pages
from model.strips.strips import Strips


class VAE(nn.Module):
    """E and D around a diffusers `AutoencoderKL`; latents are (mean − shift)·scaling."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.scaling: float = autoencoder.config.scaling_factor
        self.shift: float = autoencoder.config.shift_factor or 0.0
        self.whole_pixels: int | None = None
        """Larger images go through in exact strips (`model.strips`) …"""
        self.strip_pixels = STRIP_PIXELS
        """… of about so many pixels."""
        self._pages = Pages()

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
        coder = self.autoencoder
        if strips := self._strips(x.shape[-1], x.shape[-2]):
            mean = self._kept(strips.encode_mode, x)
            self._pages.lend()  # to whatever runs before the decoding
        else:
            moments: Tensor = coder.encoder(x.to(coder.dtype))
            if coder.quant_conv is not None:
                moments = coder.quant_conv(moments)
            mean = moments[:, : self.latent_channels]  # the rest is the variance, which only a sample needs
        return (mean.float() - self.shift) * self.scaling

    def decode(self, z: Tensor) -> Tensor:
        """[B,C,h,w] scaled latent → [B,3,8h,8w] float32, around [-1,1] and not clamped."""
        latent = (z / self.scaling + self.shift).to(self.autoencoder.dtype)
        if strips := self._strips(z.shape[-1] * LATENT, z.shape[-2] * LATENT):
            pixels = self._kept(strips.decode, latent)
            self.rest()
            return pixels.float()
        decoded: Tensor = self.autoencoder.decode(latent, return_dict=False)[0]
        return decoded.float()

    def goes_in_strips(self, width: int, height: int) -> bool:
        """Whether an image of so many pixels does."""
        return self.whole_pixels is not None and width * height > self.whole_pixels

    def _strips(self, width: int, height: int) -> Strips | None:
        if self.whole_pixels is None or not self.goes_in_strips(width, height):
            return None
        host = None if self.autoencoder.device.type == "cuda" else self._pages
        return Strips(self.autoencoder, self.strip_rows(width), host)

    def strip_rows(self, width: int) -> int:
        """Pixels, of an image so wide."""
        return max(1, self.strip_pixels // (width * LATENT)) * LATENT

    def _kept(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        try:
            return run(x).to(x.device)
        except BaseException:
            self.rest()
            raise

    def rest(self) -> None:
        """Give back the memory that strips keep between an image's encoding and its decoding."""
        self._pages.release()

    def fold(self) -> None:
        """For serving: the same results at less cost, in place; it cannot be trained any more. Once is enough."""
        fold_autoencoder(self.autoencoder)
