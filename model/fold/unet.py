"""The UNet of Stable Diffusion at one timestep with one prompt: what depends on nothing else is in the weights."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from model.fold.blocks import Residual, SelfAttention, Upsample, as_map, as_tokens, linear
from model.fold.linear import as_products

PLAIN = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim_type": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
}
"""What a Stable Diffusion UNet is, of all that diffusers' class can be."""
BLOCKS = {"CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "DownBlock2D", "UpBlock2D"}


@torch.no_grad()
def fold_unet(unet: UNet2DConditionModel, t: int, prompt_embeds: Tensor) -> "FoldedUNet":
    """The same function at timestep `t` with the prompt [1,T,C], as a module that takes the place of `unet`.

    It takes over the weights of `unet`, which is of no use then: the time embedding goes into the biases of the
    convolutions that it was added to. Raises ValueError for a UNet that is not of Stable Diffusion's kind.
    """
    _check(unet.config)
    embedding = time_embedding(unet, t)
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            shift = module.time_emb_proj(module.nonlinearity(embedding))[0]
            module.conv1.bias = nn.Parameter(module.conv1.bias + shift)
    folded = FoldedUNet(unet, prompt_embeds).eval().requires_grad_(False)
    as_products(folded)
    return folded


def _check(config: Mapping[str, Any]) -> None:
    for name, plain in PLAIN.items():
        if config[name] != plain:
            raise ValueError(f"cannot fold this UNet: its {name} is {config[name]!r}, Stable Diffusion's is {plain!r}")
    if strange := {*config["down_block_types"], *config["up_block_types"]} - BLOCKS:
        raise ValueError(f"cannot fold this UNet: its blocks {', '.join(sorted(strange))} are not Stable Diffusion's")


def time_embedding(unet: UNet2DConditionModel, t: int) -> Tensor:
    """[1,D]: what diffusers' UNet computes of `t`, rounded as it is there, in the UNet's dtype."""
    embedding: Tensor = unet.time_embedding(unet.get_time_embed(unet.conv_in.bias[:1], t))
    return embedding


class FoldedUNet(nn.Module):
    """ε_θ of latents at the timestep and prompt that it was folded at."""

    def __init__(self, unet: Any, prompt_embeds: Tensor) -> None:
        super().__init__()
        self.conv_in = unet.conv_in
        self.down_blocks = nn.ModuleList()
        for block in unet.down_blocks:
            self.down_blocks.extend(_layers(block, prompt_embeds))
            self.down_blocks.extend(down.conv for down in block.downsamplers or ())
        first, *others = unet.mid_block.resnets
        self.mid_block = nn.Sequential(Residual(first))
        for attention, resnet in zip(unet.mid_block.attentions, others, strict=True):
            self.mid_block.extend([SpatialTransformer(attention, prompt_embeds), Residual(resnet)])
        self.up_blocks = nn.ModuleList()
        for block in unet.up_blocks:
            self.up_blocks.extend(_layers(block, prompt_embeds))
            self.up_blocks.extend(Upsample(up) for up in block.upsamplers or ())
        self.out = nn.Sequential(unet.conv_norm_out, unet.conv_act, unet.conv_out)

    def forward(self, z_l: Tensor) -> Tensor:
        """Latents [B,C,h,w] → ε, same shape and dtype."""
        x = self.conv_in(z_l)
        skipped = [x]
        for layer in self.down_blocks:
            x = layer(x)
            skipped.append(x)
        x = self.mid_block(x)
        for layer in self.up_blocks:
            if isinstance(layer, Upsample):
                x = layer(x, skipped[-1].shape[-2:])
            else:
                x = layer(torch.cat([x, skipped.pop()], dim=1))
        prediction: Tensor = self.out(x)
        return prediction


def _layers(block: Any, prompt_embeds: Tensor) -> Iterator[nn.Module]:
    """The resnets of a block of diffusers', each with the transformer that follows it, if any does."""
    attentions = getattr(block, "attentions", [None] * len(block.resnets))
    for resnet, attention in zip(block.resnets, attentions, strict=True):
        residual = Residual(resnet)
        yield residual if attention is None else nn.Sequential(residual, SpatialTransformer(attention, prompt_embeds))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a map, on top of the map."""

    def __init__(self, transformer: Transformer2DModel, prompt_embeds: Tensor) -> None:
        super().__init__()
        self.norm = transformer.norm
        # Stable Diffusion 1 has 1×1 convolutions here
        self.proj_in, self.proj_out = (
            linear(project.weight.flatten(1), project.bias) for project in (transformer.proj_in, transformer.proj_out)
        )
        self.blocks = nn.ModuleList(TransformerBlock(block, prompt_embeds) for block in transformer.transformer_blocks)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] → the same shape."""
        tokens = self.proj_in(as_tokens(self.norm(x)))
        for block in self.blocks:
            tokens = block(tokens, len(x))
        return x + as_map(self.proj_out(tokens), x)


class TransformerBlock(nn.Module):
    """Tokens attend to each other, then to the prompt, then go through a gated MLP."""

    def __init__(self, block: BasicTransformerBlock, prompt_embeds: Tensor) -> None:
        super().__init__()
        self.norm1, self.attn1 = block.norm1, SelfAttention(block.attn1)
        self.norm2, self.attn2 = block.norm2, PromptAttention(block.attn2, prompt_embeds)
        self.norm3, self.ff_in, self.ff_out = block.norm3, block.ff.net[0].proj, block.ff.net[2]

    def forward(self, tokens: Tensor, batch: int) -> Tensor:
        """Tokens [B·N,C] of a batch of B → the same shape."""
        tokens = tokens + self.attn1(self.norm1(tokens), batch)
        tokens = tokens + self.attn2(self.norm2(tokens))
        hidden, gate = self.ff_in(self.norm3(tokens)).chunk(2, dim=-1)
        result: Tensor = tokens + self.ff_out(hidden * F.gelu(gate))
        return result


class PromptAttention(nn.Module):
    """Attention to the one prompt, whose keys and values [1,heads,T,d] are at hand."""

    key: Tensor
    value: Tensor

    def __init__(self, attention: Attention, prompt_embeds: Tensor) -> None:
        super().__init__()
        self.to_q, self.to_out = attention.to_q, attention.to_out[0]
        for name, project in (("key", attention.to_k), ("value", attention.to_v)):
            heads = project(prompt_embeds).unflatten(-1, (attention.heads, -1))
            self.register_buffer(name, heads.transpose(1, 2).contiguous())

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [N,C] of any number of images: one prompt for all, so they are the rows of one query."""
        _, heads, _, width = self.key.shape
        q = self.to_q(tokens).view(1, -1, heads, width).transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, self.key, self.value)
        out: Tensor = self.to_out(attended.transpose(1, 2).reshape(len(tokens), -1))
        return out

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        # `to(memory_format=channels_last)` takes whatever has four axes for a map; attention kernels want rows
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.key, self.value = self.key.contiguous(), self.value.contiguous()
        return self
