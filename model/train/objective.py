"""The generator's objective, eq. 16: L = λ₁·LDR + λ₂·MSE + λ₃·OC-LPIPS + λ₄·GAN, each term a module of its own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from model.errors import ModelFilesError
from model.train.losses.chunks import OverlapChunked
from model.train.losses.deep_feature import DeepFeatureLoss, InPhases
from model.train.losses.dino import DINOv2Maps, DINOv3ConvNextMaps
from model.train.losses.gan import Discriminator
from model.train.losses.ldr import ldr
from model.train.losses.lpips import LPIPS
from model.train.losses.mobilenet_v2 import MobileNetV2Maps, installed_weights
from model.train.losses.structure import DISTS
from model.train.omgsr import Restored
from model.train.recipe import Critic, Perceptual, Weights


class Objective(nn.Module):
    """The weighted terms of both kinds: on latents, and on pixels; those of weight 0 are not computed."""

    def __init__(
        self, weights: Weights, signal_noise: tuple[float, float], perceptual: nn.Module | None, dists: nn.Module | None
    ) -> None:
        super().__init__()
        self.weights, self.signal_noise = weights, signal_noise
        """Of the mid-timestep: √ᾱ and √(1−ᾱ), or 1−σ and σ."""
        self.perceptual, self.structure = perceptual, dists

    def forward(self, restored: Restored, x_h: Tensor, critic: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Every term unweighted, and ``total``, which is minimised. ``critic`` gives the GAN's term of images."""
        z_0, z_l, z_p, x_p = restored
        terms: dict[str, Callable[[], Tensor]] = {
            "ldr": lambda: ldr(z_l, z_0, *self.signal_noise),
            "latent": lambda: (z_p - z_0).square().mean(),
        }
        if x_p is not None:
            terms |= self._pixel_terms(x_p, x_h)
            terms["gan"] = partial(critic, x_p)
        weights = {name: weight for name, weight in self.weights.model_dump().items() if weight}
        losses = {name: terms[name]() for name in weights}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return {"total": total, **losses}

    def _pixel_terms(self, x_p: Tensor, x_h: Tensor) -> dict[str, Callable[[], Tensor]]:
        terms: dict[str, Callable[[], Tensor]] = {
            "mse": lambda: (x_p - x_h).square().mean(),
            "l1": lambda: (x_p - x_h).abs().mean(),
        }
        for name, distance in (("perceptual", self.perceptual), ("structure", self.structure)):
            if distance is not None:
                terms[name] = partial(distance, x_p, x_h)
        return terms


def build_objective(weights: Weights, perceptual: Perceptual, signal_noise: tuple[Tensor, Tensor]) -> Objective:
    """The objective with the backbones that its weights ask for. Raises ModelFilesError for a missing one."""
    distance = build_perceptual(perceptual) if weights.perceptual else None
    dists = None
    if weights.structure:
        dists = DISTS(required(perceptual.vgg, "perceptual.vgg"), required(perceptual.dists, "perceptual.dists"))
    signal, noise = signal_noise
    return Objective(weights, (signal.item(), noise.item()), distance, dists)


def build_perceptual(config: Perceptual) -> nn.Module:
    """OC-LPIPS of eq. 14, or the distance in its place."""
    if config.kind == "mobilenet":
        return InPhases(OverlapChunked(DeepFeatureLoss(config.mobilenet), config.chunk))
    lpips = LPIPS(required(config.vgg, "perceptual.vgg"), required(config.lpips, "perceptual.lpips"))
    return OverlapChunked(lpips, config.chunk)


def build_critic(config: Critic) -> Discriminator:
    """The discriminator on its frozen backbone. Raises ModelFilesError for a missing one."""
    backbone: MobileNetV2Maps | DINOv2Maps | DINOv3ConvNextMaps
    if config.kind == "mobilenet":
        backbone = MobileNetV2Maps(config.backbone or installed_weights())
    else:
        kind = DINOv2Maps if config.kind == "dinov2" else DINOv3ConvNextMaps
        backbone = kind(required(config.backbone, "critic.backbone"))
    return Discriminator(backbone, backbone.channels, config.chunk, config.augment)


def required(path: Path | None, field: str) -> Path:
    """``path``, or a ModelFilesError that says which field of the recipe must name it."""
    if path is None:
        raise ModelFilesError(f"the recipe's weights need {field}: name a file or folder there (docs/training.md)")
    return path
