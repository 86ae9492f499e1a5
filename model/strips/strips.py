"""Exact encoding and decoding in strips: each layer runs over the whole image before the next one begins."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D
from torch import Tensor, nn

from model.fold.blocks import Upsample
from model.strips.attention import attend
from model.strips.layers import layer_of
from model.strips.maps import Host, Map, pinned
from model.strips.memory import Network
from model.strips.moments import Moments
from model.strips.pages import Pages
from model.strips.remade import Remade

BLOCKS = {"DownEncoderBlock2D", "UpDecoderBlock2D"}
"""Kinds of blocks that are known to be what `Strips` makes of them."""


def network_of(autoencoder: AutoencoderKL) -> Network:
    """What the memory formulas need to know of it."""
    upsamplers = [each for block in autoencoder.decoder.up_blocks for each in block.upsamplers or ()]
    return Network(
        channels=tuple(autoencoder.config.block_out_channels),
        itemsize=autoencoder.dtype.itemsize,
        transposed=all(isinstance(each, Upsample) for each in upsamplers),
        attention=autoencoder.config.mid_block_add_attention,
    )


class Strips:
    """An `AutoencoderKL` for images of any size; `model.strips.memory` says what it takes of the device.

    Maps lie in host memory, pinned where the device is CUDA. A strip of `rows` pixels, with the rows of its neighbours
    that a layer reaches, visits the device, is normed with the statistics of the whole image, run and measured for the
    next norm. Attention sees the whole image, a strip of queries at a time. Equal to the whole up to rounding.
    """

    def __init__(self, autoencoder: AutoencoderKL, rows: int, host: Host | None = None) -> None:
        """`rows`: a multiple of the pixels per latent. `host` allocates the maps (default: `pinned` or `Pages`).

        Raises ValueError for other rows, and for an autoencoder that strips would not reproduce.
        """
        config = autoencoder.config
        self._factor = 2 ** (len(config.block_out_channels) - 1)
        if rows < 1 or rows % self._factor:
            raise ValueError(f"rows of a strip must be a multiple of {self._factor} pixels, got {rows}")
        # Of one level a strip may be a single row, and what is made anew reads two of its neighbour.
        kinds = {*config.down_block_types, *config.up_block_types}
        if config.act_fn != "silu" or not kinds <= BLOCKS or self._factor == 1:
            raise ValueError("strips know autoencoders of several levels, plain residual blocks and SiLU: run it whole")
        self._autoencoder = autoencoder
        self._rows = rows
        self._dtype: torch.dtype = autoencoder.dtype
        self._device: torch.device = autoencoder.device
        self._host = host or (pinned if self._device.type == "cuda" else Pages())

    @torch.no_grad()
    def encode_mode(self, x: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1], anywhere → the posterior's mean [B,C,H/8,W/8] in host memory, in the weights' dtype.

        Raises ValueError where a side is not a multiple of the pixels per latent.
        """
        batch, _, height, width = x.shape
        if height % self._factor or width % self._factor:
            raise ValueError(f"sides must be multiples of {self._factor} pixels, got {width}×{height}")
        channels = self._autoencoder.config.latent_channels
        mean = self._host((batch, channels, height // self._factor, width // self._factor), self._dtype)
        for image, place in zip(torch.split(x, 1), torch.split(mean, 1), strict=True):
            self._gather(self._encode(self._stored(image, self._rows)), place)
        return mean

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents [B,C,h,w], not scaled, anywhere → pixels [B,3,8h,8w] in host memory, in the weights' dtype."""
        batch, _, height, width = z.shape
        channels = self._autoencoder.config.out_channels
        pixels = self._host((batch, channels, height * self._factor, width * self._factor), self._dtype)
        for latent, place in zip(torch.split(z, 1), torch.split(pixels, 1), strict=True):
            self._gather(self._decode(self._stored(latent, self._rows // self._factor)), place)
        return pixels

    def _stored(self, whole: Tensor, rows: int) -> Map:
        stored = self._map()
        for index, strip in enumerate(torch.split(whole, rows, dim=2)):
            stored.put(index, strip, self._dtype)
        return stored

    def _gather(self, x: Map, whole: Tensor) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        x.gather(whole)

    def _map(self) -> Map:
        return Map(self._device, self._host)

    def _encode(self, x: Map) -> Map:
        encoder = self._autoencoder.encoder
        x = Remade(x, layer_of(encoder.conv_in), self._device, self._host)
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                x = self._resnet(x, resnet)
            for downsampler in block.downsamplers or ():
                x = self._layer(x, downsampler)
        x = self._middle(x, encoder.mid_block)
        x = self._layer(x, encoder.conv_out, norm=encoder.conv_norm_out)
        quant = self._autoencoder.quant_conv
        return x if quant is None else self._layer(x, quant)

    def _decode(self, x: Map) -> Map:
        decoder, quant = self._autoencoder.decoder, self._autoencoder.post_quant_conv
        x = x if quant is None else self._layer(x, quant)
        x = self._layer(x, decoder.conv_in)
        x = self._middle(x, decoder.mid_block)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = self._resnet(x, resnet)
            for upsampler in block.upsamplers or ():
                x = self._layer(x, upsampler)
        return self._layer(x, decoder.conv_out, norm=decoder.conv_norm_out)

    def _middle(self, x: Map, block: UNetMidBlock2D) -> Map:
        x = self._resnet(x, block.resnets[0])
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            x = x if attention is None else attend(x, attention)
            x = self._resnet(x, resnet)
        return x

    def _resnet(self, x: Map, block: ResnetBlock2D) -> Map:
        branch = self._layer(x, block.conv1, norm=block.norm1, skip=block.conv_shortcut or nn.Identity())
        return self._layer(branch, block.conv2, norm=block.norm2, onto=x)

    def _layer(
        self,
        x: Map,
        module: nn.Module,
        *,
        norm: nn.GroupNorm | None = None,
        skip: nn.Module | None = None,
        onto: Map | None = None,
    ) -> Map:
        """One pass: module(silu(norm(x))), added to `onto` where there is one.

        `x` is spent on the way, each strip once no window reaches it any more; with `skip` it becomes skip(x) instead.
        """
        layer, last = layer_of(module), len(x) - 1
        norming = x.moments.norming(norm) if norm else None
        out = self._map() if onto is None else onto
        out.moments = Moments()
        for index in range(last + 1):
            strip = x.window(index, layer.above, layer.below, norming)
            if norm:
                F.silu(strip, inplace=True)
            if layer.right:
                strip = F.pad(strip, (0, layer.right))
            made = layer.run(strip)
            del strip
            if onto is None:
                out.put(index, made)
            else:
                made = out.add(index, made)
            out.moments.add(made)
            del made
            if index:
                _leave(x, index - 1, skip)
        _leave(x, last, skip)
        return out


def _leave(x: Map, index: int, skip: nn.Module | None) -> None:
    if skip is None:
        x.drop(index)
    elif not isinstance(skip, nn.Identity):
        x.put(index, skip(x.strip(index)))
