"""The networks that are measured: full-size ones with random weights, and the bundled mini."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from model.files import cast
from model.flux import FluxDenoiser
from model.pipeline import OMGSRPipeline
from model.plan import Geometry
from model.schedule import DDPMSchedule, FlowSchedule, Schedule

Model = Literal["mini", "s", "f"]
MINI = Path(__file__).parent.parent / "model" / "weights" / "omgsr-s-mini"

VAE_BLOCKS = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
SD_VAE = VAE_BLOCKS | {"latent_channels": 4, "scaling_factor": 0.18215}
FLUX_VAE = VAE_BLOCKS | {
    "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
SD_TURBO = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
}  # fmt: skip
FLUX_DEV = {
    "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128,
    "in_channels": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
}  # fmt: skip
SD_SCHEDULE = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000,
}  # fmt: skip
TEXT_TOKENS = 512
"""What FLUX pads its prompt to."""
S_GEOMETRY = Geometry(process_size=512, tile=64, overlap=32, multiple=8)
F_GEOMETRY = Geometry(process_size=1024, tile=128, overlap=64, multiple=16)


class Bare(NamedTuple):
    """Plain diffusers models, and what the one-step equations need besides."""

    autoencoder: Any
    denoiser: Any
    schedule: Schedule
    prompt: dict[str, Tensor]
    """`prompt_embeds` [1,T,C]; F has `pooled_prompt_embeds` [1,P], too."""
    t: int
    geometry: Geometry

    def sharing(self) -> "Bare":
        """Modules of their own whose parameters lie in these ones' memory, to be folded beside them."""

        def twin(model: nn.Module) -> nn.Module:
            return copy.deepcopy(model, {id(p): nn.Parameter(p.data, p.requires_grad) for p in model.parameters()})

        return self._replace(autoencoder=twin(self.autoencoder), denoiser=twin(self.denoiser))

    def on_meta(self) -> "Bare":
        """The same shapes without data, to count on."""
        with torch.device("meta"):
            models = [type(model).from_config(model.config) for model in (self.autoencoder, self.denoiser)]
        autoencoder, denoiser = (cast(model, self.autoencoder.dtype).requires_grad_(False) for model in models)
        prompt = {name: tensor.to("meta") for name, tensor in self.prompt.items()}
        return self._replace(autoencoder=autoencoder.eval(), denoiser=denoiser.eval(), prompt=prompt)


def load(model: Model, device: torch.device, dtype: torch.dtype, text_tokens: int = TEXT_TOKENS) -> Bare:
    """The networks on `device`, without data on the meta device; `text_tokens` is the length of F's prompt."""
    if model == "mini":
        return bare_of(OMGSRPipeline.from_variant(MINI, device=device, dtype=dtype))
    schedule: Schedule = DDPMSchedule.from_config(SD_SCHEDULE) if model == "s" else FlowSchedule.flux()
    with torch.device("meta"):
        if model == "s":
            autoencoder, unet = AutoencoderKL(**SD_VAE), UNet2DConditionModel(**SD_TURBO)
            found = Bare(autoencoder, unet, schedule, {"prompt_embeds": torch.zeros(1, 77, 1024)}, 195, S_GEOMETRY)
        else:
            prompt = {"prompt_embeds": torch.zeros(1, text_tokens, 4096), "pooled_prompt_embeds": torch.zeros(1, 768)}
            transformer = FluxTransformer2DModel(**FLUX_DEV)
            found = Bare(AutoencoderKL(**FLUX_VAE), transformer, schedule, prompt, 295, F_GEOMETRY)
    return _filled(found, device, dtype)


def bare_of(pipe: OMGSRPipeline) -> Bare:
    """What a pipeline that is not folded is made of, its adapters merged."""
    denoiser: Any = pipe.denoiser
    prompt = {"prompt_embeds": denoiser.prompt_embeds}
    if isinstance(denoiser, FluxDenoiser):
        prompt["pooled_prompt_embeds"] = denoiser.pooled
    return Bare(pipe.vae.autoencoder, denoiser.network, denoiser.schedule, prompt, pipe.mid_timestep, pipe.geometry)


@torch.no_grad()
def _filled(bare: Bare, device: torch.device, dtype: torch.dtype) -> Bare:
    """Random weights, scaled so that activations neither vanish nor grow: no denormals, no NaN."""
    generator = torch.Generator(device).manual_seed(0) if device.type != "meta" else None
    for model in (bare.autoencoder, bare.denoiser):
        cast(model, dtype).eval().requires_grad_(False).to_empty(device=device)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(float(name.endswith("weight")))  # of a norm; a bias is 0
    prompt = {
        name: torch.randn(tensor.shape, generator=generator, device=device).to(dtype)
        for name, tensor in bare.prompt.items()
    }
    return bare._replace(prompt=prompt)


def tensors_of(*modules: nn.Module) -> list[Tensor]:
    """Every tensor that the modules hold: parameters, buffers, and what lies in plain attributes."""
    held = [tree_leaves(vars(part)) for module in modules for part in module.modules()]
    return [leaf for leaves in held for leaf in leaves if isinstance(leaf, Tensor)]


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages, each once."""
    return sum({each._cdata: each.nbytes() for each in (tensor.untyped_storage() for tensor in tensors)}.values())
