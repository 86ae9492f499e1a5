"""Our way, around the same weights as the plain one: the pipeline that is served, its optimisations one by one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.bare import Bare
from model.backend.choose import use_backend
from model.flux import FluxDenoiser
from model.pipeline import MAX_BATCH, OMGSRPipeline
from model.quantize import quantize
from model.schedule import FlowSchedule
from model.sd import SDDenoiser
from model.upscale import Decode, Encode, Op, drive, predict
from model.vae import VAE

Toggle = Callable[[OMGSRPipeline], object]
TOGGLES: dict[str, Toggle] = {
    "folded": OMGSRPipeline.fold,
    "strips": lambda pipe: setattr(pipe.vae, "whole_pixels", 0),
    "channels-last": lambda pipe: channels_last(pipe.vae, pipe.denoiser.network),
    "int8": lambda pipe: quantize(pipe, "int8"),
    "fp8": lambda pipe: quantize(pipe, "fp8"),
    "openvino": lambda pipe: use_backend(pipe, "openvino"),
    "inductor": lambda pipe: use_backend(pipe, "inductor"),
    "auto": use_backend,
}
"""What can be switched on, in this order; `auto` is the worker's own choice of a backend."""


def channels_last(*modules: torch.nn.Module) -> None:
    """Convolutions' weights in the layout that convolutions like best; activations follow."""
    for module in modules:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def pipeline(bare: Bare, toggles: Sequence[str] = ()) -> OMGSRPipeline:
    """A pipeline of the networks, with `toggles` on. They change the networks: give a copy (`Bare.sharing`)."""
    embeds = bare.prompt["prompt_embeds"]
    if isinstance(bare.schedule, FlowSchedule):
        denoiser: Any = FluxDenoiser(bare.denoiser, bare.schedule, embeds, bare.prompt["pooled_prompt_embeds"])
    else:
        denoiser = SDDenoiser(bare.denoiser, bare.schedule, embeds)
    pipe = OMGSRPipeline(VAE(bare.autoencoder), denoiser, bare.geometry, mid_timestep=bare.t)
    for toggle in sorted(toggles, key=list(TOGGLES).index):
        TOGGLES[toggle](pipe)
    return pipe


class Ours:
    """A pipeline's three stages on whole batches, as the Engine runs them."""

    def __init__(self, pipe: OMGSRPipeline) -> None:
        self.pipe = pipe

    def encode(self, x: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] → scaled latent [B,C,H/8,W/8] float32."""
        return self._run([Encode(each) for each in x])

    def predict(self, z_l: Tensor) -> Tensor:
        """z_P of z_L (eq. 12, 13), tiled where it is larger than the tile."""
        images = [predict(latent, self.pipe.geometry) for latent in z_l]
        predictions = drive(images, self.pipe.execute, max(MAX_BATCH, len(images)))
        return self.pipe.step(z_l, torch.stack(predictions))

    def decode(self, z_p: Tensor) -> Tensor:
        """Scaled latent [B,C,h,w] → [B,3,8h,8w] float32 in [-1,1]."""
        return self._run([Decode(each) for each in z_p])

    def _run(self, ops: Sequence[Op]) -> Tensor:
        return torch.stack(self.pipe.execute(ops))
