"""What the UNet and the VAE are made of, and nothing that inference can do without: no time, no dropout, no 1/1.

Each block takes over the weights of the diffusers block that it stands for, under the same names where there are any.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))), with a 1×1 convolution of x where the channels change."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.conv_shortcut = block.conv_shortcut

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """[B,C,h,w] → [B,C',h,w]. Diffusers' blocks pass a time embedding besides; what it said is in the weights."""
        inner = self.conv1(F.silu(self.norm1(x), inplace=True))
        hidden: Tensor = self.conv2(F.silu(self.norm2(inner), inplace=True))
        hidden += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return hidden


class Upsample(nn.Module):
    """Nearest ×2 and a 3×3 convolution, as one transposed convolution: 4 of 9 multiplications, no larger map between.

    Of the nine pixels that the convolution reads, those that came of one pixel are equal: their weights are summed.
    """

    def __init__(self, upsample: Upsample2D) -> None:
        super().__init__()
        conv = upsample.conv
        self.conv = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1, device="meta")
        self.conv.weight, self.conv.bias = _frozen(transposed_kernel(conv.weight)), conv.bias

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """[B,C,h,w] → [B,C',2h,2w], or `size` (height, width), which may be less by one."""
        if size is None or tuple(size) == (2 * x.shape[-2], 2 * x.shape[-1]):
            doubled: Tensor = self.conv(x)
            return doubled
        # The convolution pads what was cropped: a border that the transposed one does not see.
        kernel = convolution_kernel(self.conv.weight)
        return F.conv2d(F.interpolate(x, size=tuple(size), mode="nearest"), kernel, self.conv.bias, padding=1)


def transposed_kernel(weight: Tensor) -> Tensor:
    """Weight [O,I,3,3] of a convolution that follows nearest ×2 → [I,O,4,4] of the transposed convolution instead.

    Stride 2, padding 1. Summed in float32 at least, rounded once.
    """
    wide = weight.transpose(0, 1).to(torch.promote_types(weight.dtype, torch.float32))
    return _four_taps(_four_taps(wide, -1), -2).to(weight.dtype)


def convolution_kernel(weight: Tensor) -> Tensor:
    """The inverse of `transposed_kernel`, to rounding: [I,O,4,4] → [O,I,3,3]."""
    wide = weight.transpose(0, 1).to(torch.promote_types(weight.dtype, torch.float32))
    return _three_taps(_three_taps(wide, -1), -2).to(weight.dtype)


def _four_taps(weight: Tensor, axis: int) -> Tensor:
    first, middle, last = weight.unbind(axis)
    return torch.stack([last, middle + last, first + middle, first], axis)


def _three_taps(weight: Tensor, axis: int) -> Tensor:
    last, middle_last, first_middle, first = weight.unbind(axis)
    return torch.stack([first, (middle_last - last + first_middle - first) / 2, last], axis)


class SelfAttention(nn.Module):
    """Attention of an image's tokens to each other, by a kernel that never holds the matrix of scores."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads: int = attention.heads
        self.to_qkv = stacked([attention.to_q, attention.to_k, attention.to_v])
        self.to_out = attention.to_out[0]

    def forward(self, tokens: Tensor, batch: int) -> Tensor:
        """Tokens [B·N,C] of a batch of B → the same shape."""
        qkv = self.to_qkv(tokens)
        qkv = qkv.view(batch, -1, 3, self.heads, qkv.shape[-1] // (3 * self.heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.to_out(attended.transpose(1, 2).reshape(tokens.shape[0], -1))
        return out


class SpatialAttention(nn.Module):
    """The attention in the middle of the VAE: over all pixels of a map, on top of the map."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.group_norm = attention.group_norm
        self.attention = SelfAttention(attention)

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """[B,C,h,w] → the same shape. Diffusers' blocks pass a time embedding besides, which is none."""
        return x + as_map(self.attention(as_tokens(self.group_norm(x)), len(x)), x)


def as_tokens(x: Tensor) -> Tensor:
    """[B,C,h,w] → [B·h·w, C]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """[B·h·w, C] → [B,C,h,w], the shape of `like`."""
    batch, channels, height, width = like.shape
    return tokens.view(batch, height, width, channels).permute(0, 3, 1, 2)


def stacked(layers: Sequence[Any]) -> nn.Linear:
    """Layers that read the same, as one whose outputs are theirs one after the other."""
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    return linear(torch.cat(weights), None if biases[0] is None else torch.cat(biases))


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer of this weight [O,I] and bias [O]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = _frozen(weight)
    if bias is not None:
        layer.bias = _frozen(bias)
    return layer


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
