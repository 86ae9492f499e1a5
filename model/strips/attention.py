"""The mid block's attention: it sees the whole image, a strip of queries at a time."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from model.fold.blocks import SpatialAttention
from model.strips.maps import Map
from model.strips.moments import Moments

Pointwise = Callable[[Tensor], Tensor]


def attend(x: Map, block: Attention | SpatialAttention) -> Map:
    """x + attention(norm(x)) in the place of x, by diffusers' module or the folded one.

    Keys and values of all pixels lie on the device, scores never do (a memory-efficient kernel's work).
    """
    norming = x.moments.norming(block.group_norm)
    (to_query, to_key, to_value), to_out, heads = _projections(block)
    keys, values = (_of_all(x, block.group_norm, linear) for linear in (to_key, to_value))
    x.moments = Moments()
    for index in range(len(x)):
        window = x.window(index, norming=norming)
        query, (_, channels, rows, width) = _in_heads(to_query(_tokens(window)), heads), window.shape
        del window
        mixed = F.scaled_dot_product_attention(query, _in_heads(keys, heads), _in_heads(values, heads))
        del query
        added = to_out(mixed.transpose(1, 2).flatten(2))
        del mixed
        x.moments.add(x.add(index, added.view(1, rows, width, channels).permute(0, 3, 1, 2)))
        del added
    return x


def _projections(block: Attention | SpatialAttention) -> tuple[list[Pointwise], Pointwise, int]:
    """What makes queries, keys and values of tokens; what follows the attention; the number of heads."""
    if not isinstance(block, SpatialAttention):
        return [block.to_q, block.to_k, block.to_v], block.to_out[0], block.heads
    stacked = block.attention.to_qkv
    parts: list[Pointwise] = [
        partial(F.linear, weight=weight, bias=bias)
        for weight, bias in zip(stacked.weight.chunk(3), stacked.bias.chunk(3), strict=True)
    ]
    return parts, block.attention.to_out, block.attention.heads


def _of_all(x: Map, norm: nn.GroupNorm, linear: Pointwise) -> Tensor:
    """linear(norm(x)) of all pixels on the device, [1,h·w,C]."""
    norming = x.moments.norming(norm)
    whole = norm.weight.new_empty(1, x.pixels, norm.num_channels)
    start = 0
    for index in range(len(x)):
        tokens = linear(_tokens(x.window(index, norming=norming)))
        whole[:, start : start + tokens.shape[1]] = tokens
        start += tokens.shape[1]
        del tokens
    return whole


def _tokens(strip: Tensor) -> Tensor:
    """[1,C,n,w] → [1,n·w,C]."""
    return strip.permute(0, 2, 3, 1).flatten(1, 2)


def _in_heads(tokens: Tensor, heads: int) -> Tensor:
    """[1,N,heads·d] → [1,heads,N,d]."""
    return tokens.view(1, tokens.shape[1], heads, -1).transpose(1, 2)
