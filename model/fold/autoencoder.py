"""The VAE with less to do and equal results: transposed convolutions, one projection for attention, no `quant_conv`.

`post_quant_conv` stays: its bias reaches the image's border, and the zeros that `conv_in` pads beyond it have none.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from model.fold.blocks import Residual, SpatialAttention, Upsample

FOLDED = {ResnetBlock2D: Residual, Upsample2D: Upsample, Attention: SpatialAttention}


@torch.no_grad()
def fold_autoencoder(autoencoder: AutoencoderKL) -> None:
    """Fold in place; a second time changes nothing. It encodes and decodes as before, but is not for training."""
    for name, module in list(autoencoder.named_modules()):
        if type(module) in FOLDED:
            autoencoder.set_submodule(name, FOLDED[type(module)](module))
    if autoencoder.quant_conv is not None:
        _follow(autoencoder.encoder.conv_out, autoencoder.quant_conv)
        autoencoder.quant_conv = None
    autoencoder.eval().requires_grad_(False)


def _follow(conv: Any, pointwise: Any) -> None:
    """Make `conv` do what `pointwise`, a 1×1 convolution after it, does besides."""
    mix = pointwise.weight.float().flatten(1)
    weight = (mix @ conv.weight.float().flatten(1)).view_as(conv.weight)
    bias = mix @ conv.bias.float() + pointwise.bias.float()
    conv.weight, conv.bias = (nn.Parameter(each.to(conv.weight.dtype)) for each in (weight, bias))
