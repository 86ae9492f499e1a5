"""How much memory full-size training takes on each GPU, counted part by part without weights and without a GPU.

    python -m bench.train_memory [S@512] [F@512] [F@1k] [--processes 2] [--base-dtype bfloat16]

The networks of the training code are built at full size out of fake tensors (shapes and dtypes, no data), and one
micro-step runs on them: the generator's turn forwards and backwards, then the critic's. Every storage that an
operation allocates is counted once, from its birth to its last reference, so that what is kept for the backward
pass, the gradients and the peak come out, with what activation checkpointing recomputes.

Counted with: batch 1, bf16 autocast, adapters and AdamW in fp32. docs/training-memory.md says what this leaves out.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map
from transformers import Dinov2Config, Dinov2Model

from bench.bare import FLUX_DEV, FLUX_VAE, SD_SCHEDULE, SD_TURBO, SD_VAE, size_of
from bench.live import Live
from model.files import cast
from model.flux import FluxDenoiser
from model.schedule import DDPMSchedule, FlowSchedule
from model.sd import SDDenoiser
from model.train.losses.backbones import ImageNetNorm
from model.train.losses.chunks import OverlapChunked
from model.train.losses.dino import DINOv2Maps
from model.train.losses.gan import Discriminator
from model.train.losses.ldr import ldr
from model.train.losses.lpips import LPIPS
from model.train.losses.vgg16 import VGG16Maps, vgg16_layers
from model.train.omgsr import TARGETS, Omgsr, adapted
from model.vae import VAE

GIB = 2**30
DINOV2_BASE = {"image_size": 518, "patch_size": 14, "hidden_size": 768, "num_hidden_layers": 12}


class Case(NamedTuple):
    family: str
    side: int
    encoder_rank: int
    denoiser_rank: int
    t: int


CASES = {
    "S@512": Case("sd", 512, 16, 64, 195),
    "F@512": Case("flux", 512, 64, 64, 295),
    "F@1k": Case("flux", 1024, 64, 64, 295),
}
Built = TypeVar("Built", bound=nn.Module)


def widened(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` in float32 under autocast."""

    def run(*args: Any, **kwargs: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map(lambda x: x.float() if isinstance(x, Tensor) else x, (args, kwargs))
        return function(*args, **kwargs)

    return run


def shell(cls: type[Built]) -> Built:
    """A module of the training code without its constructor, which reads files that are not needed here."""
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    return module


def build_omgsr(case: Case, dtype: torch.dtype) -> Omgsr:
    """On the meta device, and without its denoiser's tables (`attach_denoiser`)."""
    flux = case.family == "flux"
    omgsr = shell(Omgsr)
    network = cast(FluxTransformer2DModel(**FLUX_DEV) if flux else UNet2DConditionModel(**SD_TURBO), dtype)
    omgsr.vae = VAE(cast(AutoencoderKL(**(FLUX_VAE if flux else SD_VAE)), dtype)).requires_grad_(False)
    network.requires_grad_(False)
    omgsr.family, omgsr.decodes, omgsr.resting = case.family, True, False
    autoencoder = omgsr.vae.autoencoder
    omgsr.encoder = autoencoder.encoder = adapted(autoencoder.encoder, case.encoder_rank, TARGETS["vae"])
    omgsr.network = adapted(network, case.denoiser_rank, TARGETS[case.family])
    return omgsr


def attach_denoiser(omgsr: Omgsr, dtype: torch.dtype) -> None:
    network = omgsr.network.get_base_model()
    if omgsr.family == "flux":
        prompt, pooled = torch.zeros(1, 512, 4096, dtype=dtype), torch.zeros(1, 768, dtype=dtype)
        omgsr.denoiser = FluxDenoiser(network, FlowSchedule.flux(), prompt, pooled)
    else:
        schedule = DDPMSchedule.from_config(SD_SCHEDULE)
        omgsr.denoiser = SDDenoiser(network, schedule, torch.zeros(1, 77, 1024, dtype=dtype))
    omgsr.denoiser.network = omgsr.network


def materialize(module: nn.Module) -> None:
    """From the meta device to fake tensors of the CPU, whose attention is a fused kernel, as on a GPU."""
    for each in module.modules():
        for name, parameter in each.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(each, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in each.named_buffers(recurse=False):
            setattr(each, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def build_lpips() -> OverlapChunked:
    maps, lpips = shell(VGG16Maps), shell(LPIPS)
    maps.norm, maps.features = ImageNetNorm(), vgg16_layers(nn.MaxPool2d(2))
    lpips.maps = maps
    for level, channels in enumerate(maps.channels):
        lpips.register_buffer(f"w{level}", torch.zeros(1, channels, 1, 1))
    return OverlapChunked(lpips.requires_grad_(False), 224)


def build_critic() -> Discriminator:
    maps = shell(DINOv2Maps)
    maps.norm, maps.model, maps.levels = ImageNetNorm(), Dinov2Model(Dinov2Config(**DINOV2_BASE)), (3, 6, 9, 12)
    maps.channels = (DINOV2_BASE["hidden_size"],) * 4
    # The augmentation's draws are data, which fake tensors have none of; what it keeps is a few images.
    return Discriminator(maps, maps.channels, chunk=518, augment=False)


def frozen(*modules: nn.Module) -> list[Tensor]:
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return [tensor for tensor in tensors if not tensor.requires_grad]


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def count(case: Case, *, checkpointed: bool, dtype: torch.dtype, processes: int) -> dict[str, float]:
    """GiB of every part, and on each GPU in all: with whole copies (DDP), and with FLUX in shards (FSDP)."""
    with torch.device("meta"):
        omgsr, lpips, critic = build_omgsr(case, dtype), build_lpips(), build_critic()
    with FakeTensorMode(), warnings.catch_warnings(action="ignore"):
        for module in (omgsr, lpips, critic):
            materialize(module)
        attach_denoiser(omgsr, dtype)
        unsettled = size_of(frozen(omgsr.network))
        omgsr.settle(case.t)
        if checkpointed:
            omgsr.checkpoint_activations()
        network, adapters = size_of(frozen(omgsr.network)), size_of(trained(omgsr))
        heads, block = size_of(trained(critic)), largest_block(omgsr.network)
        sharded = network + 4 * size_of(trained(omgsr.network))
        static = {
            "denoiser": network,
            "VAE": size_of(frozen(omgsr.vae)),
            "VGG16, DINOv2": size_of(frozen(lpips, critic)),
            "adapters": adapters,
            "adapters' gradients": adapters,
            "adapters' AdamW": 2 * adapters,
            "critic's heads, gradients, AdamW": 4 * heads,
        }
        step = micro_step(case, omgsr, lpips, critic)
    whole = sum(static.values()) + step["most at once"]
    totals = {"total, DDP": whole + adapters + heads}  # DDP's buckets hold every gradient a second time
    if case.family == "flux":
        totals[f"total, FSDP over {processes}"] = whole - sharded * (1 - 1 / processes) + 2 * block
    parts = static | step | totals | {"(folding the modulation saved)": unsettled - network}
    return {name: size / GIB for name, size in parts.items()}


def largest_block(network: nn.Module) -> int:
    """What FSDP gathers for one block; the next one is fetched ahead."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return max(size_of(block.parameters()) for blocks in lists for block in blocks)


def micro_step(case: Case, omgsr: Omgsr, lpips: nn.Module, critic: Discriminator) -> dict[str, float]:
    """Bytes that each part of the forward pass keeps for the backward pass, and the most that is alive at once."""
    for parameter in (*trained(omgsr), *trained(critic)):
        parameter.grad = torch.zeros_like(parameter)  # of the micro-steps before; counted with the static parts
    x_l, x_h = torch.zeros(2, 1, 3, case.side, case.side).unbind()
    before = [*omgsr.parameters(), *omgsr.buffers(), *lpips.parameters(), *lpips.buffers(), *critic.parameters()]
    live = Live([*before, *critic.buffers(), *(p.grad for p in before if p.grad is not None), x_l])
    kept: dict[str, float] = {}

    def keep(name: str, run: Callable[[], Tensor]) -> Tensor:
        start = live.now
        result = run()
        kept[name] = live.now - start
        return result

    random = torch.Generator()
    # CUDA's autocast computes these in float32; the CPU's, which fake tensors go through, does not
    wide = {name: widened(getattr(F, name)) for name in ("group_norm", "layer_norm", "rms_norm", "interpolate")}
    with live, patch.multiple(F, **wide):
        with torch.autocast("cpu", torch.bfloat16):
            z_0 = omgsr.encode_original(x_h)
            z_l = keep("kept by the encoder", partial(omgsr.vae.encode, x_l))
            prediction = keep("… by the denoiser", partial(omgsr.denoiser, z_l, case.t))
            z_p = omgsr.denoiser.step(z_l, prediction, case.t)
            x_p = keep("… by the decoder", partial(omgsr.vae.decode, z_p))
            terms = [5 * ldr(z_l, z_0, 0.87, 0.49), 2 * (x_p - x_h).square().mean()]
            terms.append(keep("… by OC-LPIPS", partial(lpips, x_p, x_h)))
            terms.append(keep("… by the GAN", partial(critic.generator_term, x_p, random)))
        kept["most at once, forwards"] = live.peak
        torch.autograd.backward([torch.stack(terms).sum()])
        fake = x_p.detach()
        del z_0, z_l, prediction, z_p, x_p, terms
        with torch.autocast("cpu", torch.bfloat16):
            loss = critic.discriminator_term(x_h, fake, random)
        torch.autograd.backward([loss])
    kept["most at once"] = live.peak
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--processes", type=int, default=2, help="GPUs that share FLUX under FSDP")
    parser.add_argument("--base-dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options = parser.parse_args()
    dtype = getattr(torch, options.base_dtype)
    columns = {
        f"{name}{', checkpointed' if checkpointed else ''}": count(
            CASES[name], checkpointed=checkpointed, dtype=dtype, processes=options.processes
        )
        for name in options.cases
        for checkpointed in (False, True)
    }
    rows = {part: None for column in columns.values() for part in column}
    print("| GiB on each GPU | " + " | ".join(columns) + " |")
    print("| --- " + "| ---: " * len(columns) + "|")
    for part in rows:
        print(
            f"| {part} | " + " | ".join(f"{one[part]:.2f}" if part in one else "–" for one in columns.values()) + " |"
        )


if __name__ == "__main__":
    main()
