"""The folded S and the folded VAE of both families: the same numbers, from fewer operations."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench.bare import MINI, SD_SCHEDULE, SD_TURBO, SD_VAE
from model import OMGSRPipeline
from model.analysis.quality import psnr
from model.family import Denoiser
from model.fold.blocks import Residual, Upsample, convolution_kernel, transposed_kernel
from model.fold.unet import PromptAttention, fold_unet, time_embedding
from model.pipeline import to_pixels
from model.plan import Geometry
from model.quantize import quantize
from model.schedule import DDPMSchedule
from model.sd import SDDenoiser
from model.upscale import drive
from model.vae import VAE
from tests.golden import GOLDEN, golden_pipeline

S = ["s/untiled_t195", "s/untiled_nonsquare_t195", "s/tiled_t195"]
F = ["f/untiled_t295", "f/tiled_t295"]
PHOTOS = GOLDEN.parent / "photos"


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("case", S)
def test_s_folded_gives_what_s_gives(case: str) -> None:
    golden = load_file(GOLDEN / f"{case}.safetensors")
    plain, folded = golden_pipeline(case), golden_pipeline(case).fold()
    assert_close(folded.encode(golden["lq"]), golden["z_L"])
    assert_close(folded.predict_raw(golden["z_L"]), golden["model_pred"])
    assert_close(folded.predict(golden["z_L"]), golden["z_P"])
    image = folded.decode(folded.predict(folded.encode(golden["lq"])))
    assert_close(image, plain.decode(plain.predict(plain.encode(golden["lq"]))))
    assert_close(image, golden["image"].clamp(-1, 1))


@pytest.mark.parametrize("case", F)
def test_the_vae_of_flux_folded_gives_what_it_gives(case: str) -> None:
    golden = load_file(GOLDEN / f"{case}.safetensors")
    vae = golden_pipeline(case).vae
    vae.fold()
    with torch.no_grad():
        assert_close(vae.encode(golden["lq"]), golden["z_L"])
        assert_close(vae.decode(golden["z_P"]).clamp(-1, 1), golden["image"].clamp(-1, 1))


def test_folding_again_changes_nothing() -> None:
    golden = load_file(GOLDEN / f"{S[0]}.safetensors")
    pipe = golden_pipeline(S[0]).fold()
    once = pipe.decode(pipe.predict(pipe.encode(golden["lq"])))
    assert pipe.fold() is pipe
    assert torch.equal(pipe.decode(pipe.predict(pipe.encode(golden["lq"]))), once)


def test_diffusers_own_interface_of_the_vae_stays() -> None:
    golden = load_file(GOLDEN / f"{S[0]}.safetensors")
    plain, folded = (golden_pipeline(S[0]).vae.autoencoder for _ in range(2))
    VAE(folded).fold()
    with torch.no_grad():
        (ours, theirs) = (coder.encode(golden["lq"]).latent_dist for coder in (folded, plain))
        assert_close(ours.mean, theirs.mean)
        assert_close(ours.logvar, theirs.logvar)
        assert_close(folded.decode(golden["z_P"]).sample, plain.decode(golden["z_P"]).sample)


@cache
def pair() -> tuple[Denoiser, Denoiser]:
    return golden_pipeline(S[0]).denoiser, golden_pipeline(S[0]).fold().denoiser


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 11), width=st.integers(1, 11), batch=st.integers(1, 3))
def test_the_unet_folded_takes_latents_of_any_size(height: int, width: int, batch: int) -> None:
    plain, folded = pair()
    z = torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(height * width))
    assert_close(folded(z, 195), plain(z, 195))


@torch.no_grad()
def test_the_prompts_keys_are_no_map_when_maps_become_channels_last() -> None:
    """As a map they would lie so that no fused attention kernel takes them."""
    plain, folded = golden_pipeline(S[0]).denoiser, golden_pipeline(S[0]).fold().denoiser
    folded.network.to(memory_format=torch.channels_last)
    attentions = [module for module in folded.network.modules() if isinstance(module, PromptAttention)]
    assert attentions
    assert all(attention.key.is_contiguous() and attention.value.is_contiguous() for attention in attentions)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_close(folded(z, 195), plain(z, 195))


def test_another_timestep_is_refused() -> None:
    pipe = golden_pipeline(S[0]).fold()
    z = torch.zeros(2, 4, 8, 8)
    assert torch.equal(pipe.denoiser(z, torch.tensor([195, 195])), pipe.denoiser(z, 195))
    for t in (196, torch.tensor([195, 196])):
        with pytest.raises(ValueError, match="folded at timestep 195"):
            pipe.denoiser(z, t)
    with pytest.raises(ValueError, match="folded at timestep 195"):
        pipe.denoiser.fold(196)


def test_a_unet_of_another_kind_is_refused() -> None:
    unet = golden_pipeline(S[0]).denoiser.network
    unet.register_to_config(resnet_time_scale_shift="scale_shift")
    with pytest.raises(ValueError, match="resnet_time_scale_shift"):
        fold_unet(unet, 195, torch.zeros(1, 77, 32))


sizes = st.integers(1, 9)


@torch.no_grad()
@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), sizes, sizes, st.integers(0, 1), st.integers(0, 1), st.integers(0, 999))
def test_one_transposed_convolution_is_nearest_and_convolution(
    channels: int, out: int, height: int, width: int, less_high: int, less_wide: int, seed: int
) -> None:
    """Up to the border of the map, where the convolution pads zeros, and for sizes that are less by one."""
    torch.manual_seed(seed)
    plain = Upsample2D(channels, use_conv=True, out_channels=out).double()
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    folded = Upsample(plain)
    assert (folded(x) - plain(x)).abs().max() < 1e-12
    size = (2 * height - less_high, 2 * width - less_wide)
    assert (folded(x, size) - plain(x, size)).abs().max() < 1e-12
    weight = plain.conv.weight
    assert (convolution_kernel(transposed_kernel(weight)) - weight).abs().max() < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("t", [0, 195, 273, 999])
def test_bfloat16_sees_the_references_timestep_to_the_bit(t: int) -> None:
    denoiser = bfloat16_s().denoiser
    unet: Any = denoiser.network
    resnets = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    said: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _given: object, result: Tensor) -> None:
        said[module] = result[0]

    for module in (unet.time_embedding, *(resnet.time_emb_proj for resnet in resnets)):
        module.register_forward_hook(note)
    denoiser(torch.zeros(1, 4, 8, 8), t)
    assert torch.equal(time_embedding(unet, t)[0], said[unet.time_embedding])
    expected = {resnet.conv1: resnet.conv1.bias + said[resnet.time_emb_proj] for resnet in resnets}
    denoiser.fold(t)
    folded = [module.conv1 for module in denoiser.network.modules() if isinstance(module, Residual)]
    assert set(folded) == set(expected)
    assert all(torch.equal(conv.bias, expected[conv]) for conv in folded)
    assert not any("time" in name for name, _ in denoiser.network.named_modules())


def bfloat16_s() -> OMGSRPipeline:
    base, lora, prompt = (GOLDEN / "s" / name for name in ("base", "lora", "prompt.safetensors"))
    return OMGSRPipeline.from_pretrained(
        base, adapters=lora, family="sd", mid_timestep=195, prompt=prompt, dtype=torch.bfloat16
    )


def test_bfloat16_photos_keep_50_db() -> None:
    photos = [Image.open(PHOTOS / name).convert("RGB").resize((64, 48)) for name in ("hopper.jpg", "coffee.jpg")]
    made = []
    for fold in (False, True):
        pipe = OMGSRPipeline.from_variant(MINI, dtype=torch.bfloat16, fold=fold)
        pipe.geometry = Geometry(process_size=192, tile=64, overlap=32, multiple=8)
        made.append(drive([pipe.upscale(to_pixels(photo)) for photo in photos], pipe.execute, max_batch=1))
    for plain, folded in zip(*made, strict=True):
        assert psnr(folded, plain, peak=1) >= 50


@torch.no_grad()
def test_what_is_folded_can_be_quantised() -> None:
    golden = load_file(GOLDEN / f"{S[0]}.safetensors")
    pipe = golden_pipeline(S[0]).fold()
    quantize(pipe, "int8")
    prediction = pipe.predict_raw(golden["z_L"])
    assert not torch.equal(prediction, golden["model_pred"])
    assert psnr(prediction, golden["model_pred"], peak=float(golden["model_pred"].abs().max())) >= 30


class Operators(TorchDispatchMode):
    """Counts what is dispatched, views too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Shapes:
    """S with the structure of SD-Turbo, as diffusers runs it and as the folded pipeline does."""

    def __init__(self, unet: dict[str, Any], vae: dict[str, Any], side: int) -> None:
        models = AutoencoderKL(**SD_VAE | vae), UNet2DConditionModel(**SD_TURBO | unet)
        self.autoencoder, self.unet = (model.eval().requires_grad_(False) for model in models)
        self.x = torch.zeros(1, 3, side, side)
        self.prompt = torch.zeros(1, 77, self.unet.config.cross_attention_dim)

    def plain(self) -> None:
        z = self.autoencoder.encode(self.x).latent_dist.mode()
        z = self.unet(z, 195, self.prompt).sample
        self.autoencoder.decode(z)

    def folded(self) -> Callable[[], object]:
        vae = VAE(self.autoencoder)
        vae.fold()
        denoiser = SDDenoiser(self.unet, DDPMSchedule.from_config(SD_SCHEDULE), self.prompt)
        denoiser.fold(195)
        return lambda: vae.decode(denoiser(vae.encode(self.x), 195))


@torch.no_grad()
def test_half_the_operators_are_dispatched() -> None:
    """Their number depends on the structure, not on the widths."""
    narrow = {"block_out_channels": (160,) * 4, "cross_attention_dim": 32}
    s = Shapes(narrow, {"block_out_channels": (32,) * 4}, side=64)
    with Operators() as before:
        s.plain()
    run = s.folded()
    with Operators() as after:
        run()
    assert after.count <= before.count / 2


@torch.no_grad()
def test_full_size_s_takes_a_tenth_fewer_flops() -> None:
    with torch.device("meta"):
        s = Shapes({}, {}, side=512)
        with FlopCounterMode(display=False) as before:
            s.plain()
        run = s.folded()
        with FlopCounterMode(display=False) as after:
            run()
    assert before.get_total_flops() == pytest.approx(4.44e12, rel=0.005)
    assert after.get_total_flops() <= 4.05e12
