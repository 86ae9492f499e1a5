"""A convolution as strips see it: its halo, and how it runs on a strip that brings the halo along."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from model.fold.blocks import Upsample


@dataclass(frozen=True)
class Layer:
    """Strip i of the output comes of strip i of the input and these rows of its neighbours."""

    run: Callable[[Tensor], Tensor]
    """[1,C,above + n + below,w + right] → what the n rows become: n, 2n or n/2 of them."""
    above: int = 0
    below: int = 0
    right: int = 0
    """Columns of zeros."""


def layer_of(module: nn.Module) -> Layer:
    """The description of an autoencoder's convolution or sampler, diffusers' or folded.

    Raises ValueError for anything else: strips would not be exact.
    """
    if isinstance(module, Upsample2D):
        return _nearest(module.conv)
    if isinstance(module, Downsample2D):
        return _halving(module.conv)
    if isinstance(module, Upsample):
        return _doubling(module.conv)
    if isinstance(module, nn.Conv2d) and _shape(module) == ((1, 1), (1, 1), (0, 0)):
        return Layer(module)
    if isinstance(module, nn.Conv2d) and _shape(module) == ((3, 3), (1, 1), (1, 1)):
        return Layer(lambda strip: F.conv2d(strip, module.weight, module.bias, padding=(0, 1)), above=1, below=1)
    raise ValueError(f"strips do not know this layer: {module}; run the image whole")


def _shape(conv: nn.Conv2d) -> tuple[object, object, object]:
    return conv.kernel_size, conv.stride, conv.padding


def _nearest(conv: nn.Conv2d) -> Layer:
    def run(strip: Tensor) -> Tensor:
        # Of the two rows that a row of halo becomes, the convolution reaches one.
        doubled = F.interpolate(strip, scale_factor=2.0, mode="nearest")[:, :, 1:-1]
        return F.conv2d(doubled, conv.weight, conv.bias, padding=(0, 1))

    return Layer(run, above=1, below=1)


def _doubling(conv: nn.ConvTranspose2d) -> Layer:
    # Padding a transposed convolution cuts its output: 1 as the layer does, 2 for what the row of halo becomes.
    return Layer(
        lambda strip: F.conv_transpose2d(strip, conv.weight, conv.bias, stride=2, padding=(3, 1)), above=1, below=1
    )


def _halving(conv: nn.Conv2d) -> Layer:
    # The encoder pads below and on the right alone, (0, 1, 0, 1).
    return Layer(lambda strip: F.conv2d(strip, conv.weight, conv.bias, stride=2), below=1, right=1)
