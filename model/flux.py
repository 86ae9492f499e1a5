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
from model.fold.transformer import Part, fold_transformer, image_ids
from model.pieces import Pieces
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
        self.folded_at: int | None = None

    def __call__(self, z_l: Tensor, t: int | Tensor) -> Tensor:
        """Predict v for latents [B,C,h,w] (h, w even) at t (one, or [B]); same shape, float32.

        Raises ValueError for another t than the one that it was folded at.
        """
        rows, columns = int(z_l.shape[-2]) // 2, int(z_l.shape[-1]) // 2  # plain numbers in a trace, too
        tokens = rearrange(z_l.to(self.prompt_embeds.dtype), "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
        if self.folded_at is None:
            tokens = self._predict(tokens, rows, columns, t)
        else:
            self._check(t)
            tokens = self.network(tokens, *self.network.rotary(rows, columns))
        return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=2, q=2).float()

    def _predict(self, tokens: Tensor, rows: int, columns: int, t: int | Tensor) -> Tensor:
        batch, like = len(tokens), self.prompt_embeds
        predicted: Tensor = self.network(
            hidden_states=tokens,
            timestep=self._sigma(t).expand(batch),
            guidance=like.new_full((batch,), GUIDANCE) if self.network.config.guidance_embeds else None,
            pooled_projections=self.pooled.expand(batch, -1),
            encoder_hidden_states=like.expand(batch, -1, -1),
            txt_ids=like.new_zeros(like.shape[1], 3),
            img_ids=image_ids(rows, columns).to(like),
            return_dict=False,
        )[0]
        return predicted

    def _sigma(self, t: int | Tensor) -> Tensor:
        # In bf16 σ is rounded here, before diffusers multiplies it by 1000: 0.5696 becomes 572, as in training.
        return self.schedule.sigmas[t].to(self.prompt_embeds)

    def _check(self, t: int | Tensor) -> None:
        if set(torch.as_tensor(t).flatten().tolist()) != {self.folded_at}:
            raise ValueError(f"this model was folded at timestep {self.folded_at} and has no other; asked for {t}")

    @torch.no_grad()
    def embedding(self, t: int) -> Tensor:
        """[1,D]: timestep, guidance and pooled prompt as the network's modulation reads them, rounded as it rounds."""
        times = [self._sigma(t).expand(1) * 1000]
        if self.network.config.guidance_embeds:
            times.append(self.prompt_embeds.new_full((1,), GUIDANCE) * 1000)
        embedding: Tensor = self.network.time_text_embed(*times, self.pooled)
        return embedding

    @torch.no_grad()
    def settle(self, t: int) -> None:
        """Compute once what depends on t and the prompt alone: every AdaLN modulation. From here on only t counts.

        In FLUX.1-dev this frees 3.28 of 11.9 billion parameters.
        """
        embedding = self.embedding(t)
        self.network.time_text_embed = Constant(embedding)
        for module in self.network.modules():
            if isinstance(module, MODULATED):
                module.linear = Constant(module.linear(module.silu(embedding)))

    def fold(self, t: int, part: Part | None = None) -> None:
        """For serving: as `settle`, and the constants go into the weights. From here on only t counts.

        `part` reads submodules whose weights are not there yet (`model.pieces`). Folding again at the same t changes
        nothing; raises ValueError for another one, and for one that FLUX does not have.
        """
        if self.folded_at is not None:
            self._check(t)
            return
        if not 0 <= t < self.steps:
            raise ValueError(f"the timestep must be 0 … {self.steps - 1}, got {t}")
        if part is not None:
            part("time_text_embed")
        embedding = self.embedding(t)
        del self.network.time_text_embed
        self.network = fold_transformer(self.network, embedding, self.prompt_embeds, part)
        self.folded_at = t

    def step(self, z_l: Tensor, prediction: Tensor, t: int) -> Tensor:
        """Eq. 13."""
        return self.schedule.step(z_l, prediction, t)


def load(
    base: Path,
    adapter: Path | None,
    prompt: dict[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    *,
    fold_at: int | None = None,
) -> FluxDenoiser:
    """Load `base`/transformer; `prompt` needs `prompt_embeds` [1,T,C] and `pooled_prompt_embeds` [1,P].

    `fold_at`: fold at this timestep while loading, so that what is folded away never takes memory.
    """
    if "pooled_prompt_embeds" not in prompt:
        raise ModelFilesError("FLUX needs pooled_prompt_embeds [1,P] beside prompt_embeds in the prompt file")
    folder = base / "transformer"
    if fold_at is not None:
        pieces = Pieces(FluxTransformer2DModel, folder, adapter, dtype, device)
        denoiser = _denoiser(pieces.model, prompt, dtype, device)
        denoiser.fold(fold_at, pieces.part)
        return denoiser
    transformer = load_component(FluxTransformer2DModel, folder)
    if adapter is not None:
        merge(transformer, adapter, dtype)
    return _denoiser(cast(transformer, dtype).to(device), prompt, dtype, device)


def _denoiser(
    transformer: FluxTransformer2DModel, prompt: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> FluxDenoiser:
    embeds, pooled = prompt["prompt_embeds"], prompt["pooled_prompt_embeds"]
    wanted = (transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim)
    if (embeds.shape[-1], pooled.shape[-1]) != wanted:
        raise ModelFilesError(
            f"the prompt has {embeds.shape[-1]} and {pooled.shape[-1]} channels, this transformer reads {wanted}: "
            "embed it with this base's own text encoders (omgsr models embed-prompt)"
        )
    return FluxDenoiser(transformer, FlowSchedule.flux(), embeds.to(device, dtype), pooled.to(device, dtype))
