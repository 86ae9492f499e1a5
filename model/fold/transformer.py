"""FLUX at one timestep with one prompt: what depends on nothing else is in the weights, or a constant.

In FLUX.1-dev 3.3 of 11.9 billion parameters go: all AdaLN modulation, the embeddings, the text's first projections.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from einops import rearrange
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

EPSILON = 1e-6
"""Of every layer norm in FLUX."""
FLOAT16_MAX = 65504
Part = Callable[[str], Any]
"""Gives a submodule of the transformer by its name, with its weights."""


@torch.no_grad()
def fold_transformer(
    transformer: FluxTransformer2DModel, embedding: Tensor, prompt_embeds: Tensor, part: Part | None = None
) -> "FoldedTransformer":
    """The same function at one timestep and prompt, as a module that takes the place of `transformer`.

    `embedding` [1,D]: what `time_text_embed` says of time, guidance and pooled prompt, in the model's dtype.
    `prompt_embeds` [1,T,C]. Block after block is taken over and removed from `transformer`, which is of no use then;
    so there is never more than one block twice. `part` reads submodules whose weights are not there yet: with it
    `transformer` may be on the meta device.

    Scales and gates multiply weights in float32, and the product is rounded once: a relative error per weight as
    that of the activations which are no longer rounded. Shifts go into biases likewise. Raises ValueError where an
    adapter is not merged yet.
    """
    if any(isinstance(module, BaseTunerLayer) for module in transformer.modules()):
        raise ValueError("merge the adapter before folding, which reads the weights alone")
    part = part or transformer.get_submodule
    folded = FoldedTransformer(transformer.config.axes_dims_rope)
    context = part("context_embedder")(prompt_embeds)
    del transformer.context_embedder
    for i in range(len(transformer.transformer_blocks)):
        double = DoubleBlock(part(f"transformer_blocks.{i}"), embedding)
        folded.double_blocks.append(double)
        if i == 0:
            double.text.project = ConstantHeads(double.text.project(normed(context)))
        transformer.transformer_blocks[i] = nn.Identity()
    for i in range(len(transformer.single_transformer_blocks)):
        folded.single_blocks.append(SingleBlock(part(f"single_transformer_blocks.{i}"), embedding))
        transformer.single_transformer_blocks[i] = nn.Identity()
    scale, shift = _modulation(part("norm_out"), embedding, 2)
    del transformer.norm_out
    folded.x_embedder, folded.proj_out = part("x_embedder"), _after_norm([part("proj_out")], scale, shift)
    folded.register_buffer("context", context)
    return folded.eval().requires_grad_(False)


class FoldedTransformer(nn.Module):
    """v_θ of tokens at the timestep and prompt that it was folded at."""

    context: Tensor
    """[1,T,D]: the prompt as the first block reads it."""
    x_embedder: nn.Module
    proj_out: nn.Module

    def __init__(self, axes: Sequence[int]) -> None:
        super().__init__()
        self.axes = tuple(axes)
        self.double_blocks = nn.ModuleList()
        self.single_blocks = nn.ModuleList()

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Tokens [B,N,4·C] of 2×2 latents and the rotary tables [T+N,d] of `rotary` → v, shaped as the tokens."""
        length = self.context.shape[1]
        image, text = self.x_embedder(tokens), self.context.expand(len(tokens), -1, -1)
        for block in self.double_blocks:
            image, text = block(image, text, cos[length:], sin[length:])
        both = torch.cat([text, image], dim=1)
        for block in self.single_blocks:
            both = block(both, cos, sin)
        predicted: Tensor = self.proj_out(normed(both[:, length:]))
        return predicted

    def rotary(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T+rows·columns, d], float32, for an image of so many tokens; kept for the next call."""
        return rotary_tables(self.axes, int(self.context.shape[1]), rows, columns, self.context.device)


@lru_cache(maxsize=8)
def rotary_tables(
    axes: tuple[int, ...], text: int, rows: int, columns: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """FLUX's tables for `text` tokens at (0,0,0) and image tokens at (0, row, column)."""
    ids = torch.cat([torch.zeros(text, 3), image_ids(rows, columns)]).to(device)
    cos, sin = FluxPosEmbed(theta=10000, axes_dim=axes)(ids)
    return cos, sin


def image_ids(rows: int, columns: int) -> Tensor:
    """[rows·columns, 3] float32: (0, row, column) of each token, for the rotary embedding."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())


class DoubleBlock(nn.Module):
    """Image and text, each with its own weights, attending to each other."""

    def __init__(self, block: Any, embedding: Tensor) -> None:
        super().__init__()
        attn = block.attn
        self.image = Stream(
            [attn.to_q, attn.to_k, attn.to_v], Heads(attn.norm_q, attn.norm_k), attn.to_out[0], block.ff,
            _modulation(block.norm1, embedding, 6),
        )  # fmt: skip
        self.text = Stream(
            [attn.add_q_proj, attn.add_k_proj, attn.add_v_proj], Heads(attn.norm_added_q, attn.norm_added_k),
            attn.to_add_out, block.ff_context, _modulation(block.norm1_context, embedding, 6),
        )  # fmt: skip

    def forward(self, image: Tensor, text: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Image [B,N,D], text [B,T,D], rotary tables [N,d] of the image → both, as they were shaped."""
        q, k, v = self.image.project(normed(image))
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        # Text lies at (0,0,0), where the rotation is the identity.
        ours = self.text.project(normed(text))
        attended = _attention(*(torch.cat(pair, dim=2) for pair in zip(ours, (q, k, v), strict=True)))
        length = text.shape[1]
        text = _within_float16(self.text(text, attended[:, :length]))
        return self.image(image, attended[:, length:]), text


class Stream(nn.Module):
    """One side of a double block, with its modulation folded in."""

    project: nn.Module
    """Normed tokens [B,S,D] → q, k, v, each [B,H,S,d]."""

    def __init__(
        self, qkv: Sequence[nn.Linear], heads: "Heads", out: nn.Linear, feed_forward: Any, modulation: list[Tensor]
    ) -> None:
        super().__init__()
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation
        self.project = nn.Sequential(_after_norm(qkv, scale, shift), heads)
        self.out = _gated(out, gate)
        self.mlp = nn.Sequential(
            _after_norm([feed_forward.net[0].proj], scale_mlp, shift_mlp),
            nn.GELU(approximate="tanh"),
            _gated(feed_forward.net[2], gate_mlp),
        )

    def forward(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Tokens and what attention found for them, both [B,S,D] → the tokens after the block."""
        tokens = tokens + self.out(attended)
        result: Tensor = tokens + self.mlp(normed(tokens))
        return result


class SingleBlock(nn.Module):
    """Text and image as one sequence; attention and MLP side by side, read and written by one layer each."""

    def __init__(self, block: Any, embedding: Tensor) -> None:
        super().__init__()
        attn = block.attn
        shift, scale, gate = _modulation(block.norm, embedding, 3)
        self.widths = [3 * attn.inner_dim, block.mlp_hidden_dim]
        self.heads = Heads(attn.norm_q, attn.norm_k)
        self.proj_in = _after_norm([attn.to_q, attn.to_k, attn.to_v, block.proj_mlp], scale, shift)
        self.proj_out = _gated(block.proj_out, gate)

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Tokens [B,T+N,D] and their rotary tables [T+N,d] → the tokens after the block."""
        qkv, hidden = self.proj_in(normed(tokens)).split(self.widths, dim=-1)
        q, k, v = self.heads(qkv)
        attended = _attention(_rotated(q, cos, sin), _rotated(k, cos, sin), v)
        found = torch.cat([attended, F.gelu(hidden, approximate="tanh")], dim=-1)
        return _within_float16(tokens + self.proj_out(found))


class Heads(nn.Module):
    """Splits q, k, v into heads and norms q and k."""

    def __init__(self, norm_q: nn.RMSNorm, norm_k: nn.RMSNorm) -> None:
        super().__init__()
        self.norm_q, self.norm_k = norm_q, norm_k

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B,S,3·H·d] → q, k, v, each [B,H,S,d]."""
        width = self.norm_q.normalized_shape[0]
        q, k, v = rearrange(qkv, "b s (three h d) -> three b h s d", three=3, d=width)
        return self.norm_q(q), self.norm_k(k), v


class ConstantHeads(nn.Module):
    """q, k, v of tokens that are always the same."""

    qkv: Tensor
    """[3,1,H,S,d]."""

    def __init__(self, qkv: Sequence[Tensor]) -> None:
        super().__init__()
        self.register_buffer("qkv", torch.stack(list(qkv)))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """For a batch of B, each [B,H,S,d]."""
        return self.qkv.expand(-1, len(tokens), -1, -1, -1).unbind()


def normed(tokens: Tensor) -> Tensor:
    """LN(x) over the last dimension, without weights: they are in the layers that follow."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=EPSILON)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    rotated: Tensor = apply_rotary_emb(heads, (cos, sin), sequence_dim=2)
    return rotated


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h s d -> b s (h d)")


def _within_float16(tokens: Tensor) -> Tensor:
    # as diffusers: FLUX's activations pass the range of float16, and only of that
    return tokens.clip(-FLOAT16_MAX, FLOAT16_MAX) if tokens.dtype == torch.float16 else tokens


def _modulation(norm: Any, embedding: Tensor, count: int) -> list[Tensor]:
    """The `count` vectors [D] of an AdaLN layer, computed as diffusers does; its weights are not kept."""
    vectors: Tensor = norm.linear(norm.silu(embedding))
    del norm.linear
    return list(vectors[0].chunk(count))


def _after_norm(layers: Sequence[nn.Linear], scale: Tensor, shift: Tensor) -> nn.Linear:
    """Layers that read LN(x)·(1+scale) + shift as one that reads LN(x): W·diag(1+scale), b + W·shift."""
    weights = [_scaled(layer.weight, 1 + scale.float()) for layer in layers]
    biases = [layer.bias.float() + layer.weight.float() @ shift.float() for layer in layers]
    return _linear(torch.cat(weights), torch.cat(biases).to(shift.dtype))


def _gated(layer: nn.Linear, gate: Tensor) -> nn.Linear:
    """gate·(W·x + b) as one layer."""
    return _linear(_scaled(layer.weight, gate.float()[:, None]), _scaled(layer.bias, gate.float()))


def _scaled(weight: Tensor, factor: Tensor) -> Tensor:
    # float32 by promotion of the factor: a widened copy of the weight would be one more tensor at once
    return (weight * factor).to(weight.dtype)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return layer
