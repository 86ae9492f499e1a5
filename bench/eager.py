"""The plain way, as diffusers' API has it: encode, one prediction at the mid-timestep, decode. The baseline."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from bench.bare import Bare
from model.upscale import Op, drive, predict


class Eager:
    """The unmodified diffusers modules, called one after the other."""

    def __init__(self, bare: Bare) -> None:
        self.bare = bare
        self._vae = bare.autoencoder
        self._scaling: float = self._vae.config.scaling_factor
        self._shift: float = self._vae.config.shift_factor or 0.0

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] → scaled latent [B,C,H/8,W/8] float32: the posterior's mode."""
        mode: Tensor = self._vae.encode(x.to(self._vae.dtype)).latent_dist.mode()
        return (mode.float() - self._shift) * self._scaling

    @torch.inference_mode()
    def predict(self, z_l: Tensor) -> Tensor:
        """z_P of z_L (eq. 12, 13); a latent larger than the tile goes tile by tile, as in the reference."""
        images = [predict(latent, self.bare.geometry) for latent in z_l]
        prediction = torch.stack(drive(images, self._execute, len(images)))
        return self.bare.schedule.step(z_l, prediction, self.bare.t)

    @torch.inference_mode()
    def decode(self, z_p: Tensor) -> Tensor:
        """Scaled latent [B,C,h,w] → [B,3,8h,8w] float32 in [-1,1]."""
        decoded: Tensor = self._vae.decode((z_p / self._scaling + self._shift).to(self._vae.dtype)).sample
        return decoded.float().clamp(-1, 1)

    def _execute(self, tiles: Sequence[Op]) -> list[Tensor]:
        z = torch.stack([tile.tensor for tile in tiles])
        return list(self._flux(z) if "pooled_prompt_embeds" in self.bare.prompt else self._unet(z))

    def _unet(self, z_l: Tensor) -> Tensor:
        """ε_θ(z_L, t, c)."""
        embeds = self.bare.prompt["prompt_embeds"].expand(len(z_l), -1, -1)
        prediction: Tensor = self.bare.denoiser(z_l.to(embeds.dtype), self.bare.t, embeds).sample
        return prediction.float()

    def _flux(self, z_l: Tensor) -> Tensor:
        """v_θ(z_L, σ, c) on tokens of 2×2 latents, guidance 1."""
        embeds, pooled = self.bare.prompt["prompt_embeds"], self.bare.prompt["pooled_prompt_embeds"]
        count, _, height, width = z_l.shape
        rows, columns = torch.arange(height // 2), torch.arange(width // 2)
        tokens: Tensor = self.bare.denoiser(
            hidden_states=rearrange(z_l.to(embeds.dtype), "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2),
            timestep=self.bare.schedule.signal_noise(self.bare.t)[1].to(embeds).expand(count),
            guidance=embeds.new_ones(count),
            pooled_projections=pooled.expand(count, -1),
            encoder_hidden_states=embeds.expand(count, -1, -1),
            txt_ids=embeds.new_zeros(embeds.shape[1], 3),
            img_ids=torch.cartesian_prod(torch.zeros(1, dtype=rows.dtype), rows, columns).to(embeds),
        ).sample
        return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=height // 2, p=2, q=2).float()


def compiled(bare: Bare) -> Eager:
    """The same in its `torch.compile` mode."""
    for module in (bare.autoencoder.encoder, bare.autoencoder.decoder, bare.denoiser):
        module.compile()
    return Eager(bare)
