"""OMGSR-F: the FLUX diffusion transformer, flow matching, v-prediction (eq. 13)."""

from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from einops import rearrange
from torch import Tensor, nn

from model.adapter import merge
from model.errors import ModelFilesError
from model.files import cast, load_component
from model.schedule import FlowSchedule

GUIDANCE = 1.0
MODULATED = (AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle)


class Constant(nn.Module):
    """Gives one row [1,N], whatever it is asked."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, batch: Tensor, *_others: Tensor) -> Tensor:
        """[B,N] for a batch of B."""
        return self.value.expand(len(batch), -1)


class FluxDenoiser:
    """v_θ(z_L, σ, c) with the prompt c fixed; latents travel as tokens of 2×2."""

    steps = 1000

    def __init__(
        self, transformer: FluxTransformer2DModel, schedule: FlowSchedule, prompt_embeds: Tensor, pooled: Tensor
    ) -> None:
        self.network = transformer
        self.schedule = schedule
        self.prompt_embeds = prompt_embeds
        self.pooled = pooled
        self.latent_channels = int(transformer.config.in_channels) // 4

    def __call__(self, z_l: Tensor, t: int | Tensor) -> Tensor:
        """Predict v for latents [B,C,h,w] (h, w even) at t (one, or [B]); same shape, float32."""
        batch, _, height, width = z_l.shape
        like = self.prompt_embeds
        tokens: Tensor = self.network(
            hidden_states=rearrange(z_l.to(like.dtype), "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2),
            # In bf16 σ is rounded here, before diffusers multiplies it by 1000: 0.5696 becomes 572, as in training.
            timestep=self.schedule.sigmas[t].to(like).expand(batch),
            guidance=like.new_full((batch,), GUIDANCE) if self.network.config.guidance_embeds else None,
            pooled_projections=self.pooled.expand(batch, -1),
            encoder_hidden_states=like.expand(batch, -1, -1),
            txt_ids=like.new_zeros(like.shape[1], 3),
            img_ids=image_ids(height // 2, width // 2).to(like),
            return_dict=False,
        )[0]
        return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=height // 2, p=2, q=2).float()

    @torch.no_grad()
    def settle(self, t: int) -> None:
        """Compute once what depends on t and the prompt alone: every AdaLN modulation. From here on only t counts.

        In FLUX.1-dev this frees 3.28 of 11.9 billion parameters.
        """
        embedding: list[Tensor] = []
        hook = self.network.time_text_embed.register_forward_hook(lambda *call: embedding.append(call[-1]))
        self(self.prompt_embeds.new_zeros(1, self.latent_channels, 2, 2), t)
        hook.remove()
        self.network.time_text_embed = Constant(embedding[0])
        for module in self.network.modules():
            if isinstance(module, MODULATED):
                module.linear = Constant(module.linear(module.silu(embedding[0])))

    def step(self, z_l: Tensor, prediction: Tensor, t: int) -> Tensor:
        """Eq. 13."""
        return self.schedule.step(z_l, prediction, t)


def image_ids(rows: int, columns: int) -> Tensor:
    """[rows·columns, 3] float32: (0, row, column) of each token, for the rotary embedding."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())


def load(
    base: Path, adapter: Path | None, prompt: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> FluxDenoiser:
    """Load `base`/transformer; `prompt` needs `prompt_embeds` [1,T,C] and `pooled_prompt_embeds` [1,P]."""
    if "pooled_prompt_embeds" not in prompt:
        raise ModelFilesError("FLUX needs pooled_prompt_embeds [1,P] beside prompt_embeds in the prompt file")
    transformer = load_component(FluxTransformer2DModel, base / "transformer")
    if adapter is not None:
        merge(transformer, adapter, dtype)
    embeds, pooled = prompt["prompt_embeds"], prompt["pooled_prompt_embeds"]
    wanted = (transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim)
    if (embeds.shape[-1], pooled.shape[-1]) != wanted:
        raise ModelFilesError(
            f"the prompt has {embeds.shape[-1]} and {pooled.shape[-1]} channels, this transformer reads {wanted}: "
            "embed it with this base's own text encoders (omgsr models embed-prompt)"
        )
    return FluxDenoiser(
        cast(transformer, dtype).to(device), FlowSchedule.flux(), embeds.to(device, dtype), pooled.to(device, dtype)
    )
