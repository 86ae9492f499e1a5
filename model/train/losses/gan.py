"""The adversarial term: a frozen backbone's features, judged at every level by small trained heads (eq. 15).

Eq. 15 prints the log form of the game; it is played with the hinge loss, whose generator's gradient does not fade where
the discriminator is sure. All chunks and all positions of a chunk count the same: the mean is eq. 15's 1/N · Σ_i.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import ParametrizationList

from model.train.losses.augment import augment
from model.train.losses.chunks import chunks

POWER_ITERATIONS = 8
"""In one call of `power_iteration`. At a learning rate of 1e-3, 8 keep the norms within 7 % of 1, and 1 within 23 %."""


def discriminator_loss(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """Hinge: mean max(0, 1 − D(x_H)) + mean max(0, 1 + D(x_P)), averaged over the levels' logits [B,1,h,w]."""
    levels = [
        F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in zip(real_logits, fake_logits, strict=True)
    ]
    return torch.stack(levels).mean()


def generator_loss(fake_logits: Sequence[Tensor]) -> Tensor:
    """−mean D(x_P), averaged over the levels' logits [B,1,h,w]."""
    return -torch.stack([fake.mean() for fake in fake_logits]).mean()


class Head(nn.Module):
    """Judges each position of one level's map [B,C,h,w]: logits [B,1,h,w].

    The map is first brought to mean 0 and deviation 1 over all of an image's features, whatever the backbone's scale;
    how strong a feature is beside the image's others stays to be seen. Spectral norm holds each convolution's matrix
    at a norm of 1. Nothing mixes the images of a batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(32, channels // 4)
        self.scale = nn.GroupNorm(1, channels, affine=False)
        self.convolutions = nn.ModuleList(
            spectral_norm(layer, n_power_iterations=POWER_ITERATIONS)
            for layer in (
                nn.Conv2d(channels, width, 1),
                nn.Conv2d(width, width, 3, padding=1),  # not strided: its gradient would be a checkerboard
                nn.Conv2d(width, 1, 1),
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,h,w] → [B,1,h,w]."""
        first, second, last = self.convolutions
        x = F.leaky_relu(first(self.scale(features)), 0.2)
        logits: Tensor = last(F.leaky_relu(second(x), 0.2))
        return logits


class Discriminator(nn.Module):
    """D of eq. 15 for images [B,3,H,W] in [-1,1]: ``heads`` are trained, ``backbone`` is frozen.

    ``backbone`` gives maps of ``channels``; larger images are judged in overlapping chunks of ``chunk`` pixels (518 for
    DINOv2), each augmented by its own draw. The heads work in float32 (their own dtype), also under autocast.

    Spectral norm's power iteration is advanced by ``power_iteration`` alone, once per optimizer step, and by no
    forward pass: so the generator's step changes nothing here, and several micro-batches see the same weights as
    several processes. Its vectors are buffers of ``heads``, whose state dict is all that resuming needs.
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int], chunk: int | None, augment: bool) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.heads = nn.ModuleList(Head(count) for count in channels)
        self.chunk, self.augment = chunk, augment
        self.eval()

    def train(self, mode: bool = True) -> "Discriminator":
        """Stays in eval mode: batch norm, drop path and power iteration must not move in a forward pass."""
        del mode
        return super().train(False)

    def forward(self, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        """The discriminator's step: what DistributedDataParallel, whose gradients meet in forward, has to call."""
        return self.discriminator_term(real, fake, generator)

    def discriminator_term(self, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        """Scalar for the heads' step. The images are detached: no gradient reaches what made ``fake``."""
        with torch.no_grad():
            real_maps, fake_maps = self._maps(real, generator), self._maps(fake, generator)
        return discriminator_loss(self._judge(real_maps), self._judge(fake_maps))

    def generator_term(self, fake: Tensor, generator: torch.Generator) -> Tensor:
        """Scalar for the generator's step: its gradient flows through the backbone to ``fake``, not to the heads."""
        with frozen(self.heads):
            return generator_loss(self._judge(self._maps(fake, generator)))

    @torch.no_grad()
    def power_iteration(self) -> None:
        """Brings spectral norm up to date with the weights: call it after each step of the heads' optimizer."""
        for weight in self.heads.modules():
            if isinstance(weight, ParametrizationList):
                (norm,) = weight
                norm.train()(weight.original)
                norm.eval()

    def _maps(self, images: Tensor, generator: torch.Generator) -> list[Tensor]:
        if self.chunk is not None:
            images = chunks(images, self.chunk)
        maps: list[Tensor] = self.backbone(augment(images, generator) if self.augment else images)
        return maps

    def _judge(self, maps: Sequence[Tensor]) -> list[Tensor]:
        dtype = next(self.heads.parameters()).dtype
        with torch.autocast(maps[0].device.type, enabled=False):
            return [head(features.to(dtype)) for head, features in zip(self.heads, maps, strict=True)]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within, ``module``'s parameters take no part in gradients; afterwards those that did do so again."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        module.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
