"""FLUX folded for one timestep and prompt predicts what it did before, from fewer weights, fewer than that to load."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from model import OMGSRPipeline
from model.errors import ModelFilesError
from model.files import cast
from model.flux import Constant, FluxDenoiser, load
from model.fold.transformer import fold_transformer, rotary_tables
from model.pipeline import to_pixels
from model.prompt import load_prompt
from model.schedule import FlowSchedule
from tests.golden import GOLDEN, golden_pipeline

BASE, ADAPTER = GOLDEN / "f" / "base", GOLDEN / "f" / "lora" / "flux_adapter"
PHOTOS = Path(__file__).parent / "data" / "photos"
PROMPT = load_prompt(GOLDEN / "f" / "prompt.safetensors")
T = 295
FLUX_DEV = {
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "in_channels": 64,
    "guidance_embeds": True,
}
FLUX_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def denoiser(dtype: torch.dtype = torch.float32, fold_at: int | None = None, base: Path = BASE) -> FluxDenoiser:
    return load(base, ADAPTER, PROMPT, dtype, torch.device("cpu"), fold_at=fold_at)


def latents(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def nbytes(*modules: nn.Module) -> int:
    return sum(t.nbytes for module in modules for t in [*module.parameters(), *module.buffers()])


def psnr(ours: Tensor, theirs: Tensor) -> float:
    """Of images in [-1,1]."""
    return (10 * torch.log10(4 / (ours - theirs).square().mean())).item()


@pytest.mark.parametrize("case", ["f/untiled_t295", "f/tiled_t295"])
def test_the_reference_is_met(case: str) -> None:
    golden = load_file(GOLDEN / f"{case}.safetensors")
    pipe = golden_pipeline(case)
    pipe.denoiser.fold(pipe.mid_timestep)
    assert (pipe.predict_raw(golden["z_L"]) - golden["model_pred"]).abs().max() <= 1e-4
    image = pipe.decode(pipe.predict(pipe.encode(golden["lq"])))
    assert (image - golden["image"].clamp(-1, 1)).abs().max() <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("settled", [False, True])
def test_any_batch_and_shape_is_predicted_as_before(settled: bool) -> None:
    plain, folded = denoiser(), denoiser()
    if settled:
        folded.settle(T)
    folded.fold(T)
    for shape in [(1, 16, 16, 16), (3, 16, 8, 20), (2, 16, 2, 4)]:
        z = latents(*shape)
        assert (folded(z, T) - plain(z, T)).abs().max() <= 1e-4


@torch.no_grad()
def test_the_timestep_is_rounded_as_the_reference_rounds_it() -> None:
    """In bfloat16 σ = 0.5696 becomes 0.5703, and 1000·σ becomes 572."""
    plain, seen = denoiser(torch.bfloat16), []
    hook = plain.network.time_text_embed.register_forward_hook(lambda _module, given, made: seen.append((given, made)))
    plain(latents(1, 16, 4, 4), T)
    hook.remove()
    ((timestep, guidance, _), embedding) = seen[0]
    assert (timestep.item(), guidance.item()) == (572, 1000)
    assert torch.equal(plain.embedding(T), embedding)
    exact = plain.network.time_text_embed(torch.tensor([569.6]), guidance, plain.pooled)
    assert not torch.equal(exact, embedding)
    by_hand = fold_transformer(plain.network, embedding, plain.prompt_embeds)
    folded = denoiser(torch.bfloat16)
    folded.fold(T)
    assert all(map(torch.equal, folded.network.state_dict().values(), by_hand.state_dict().values()))


@torch.no_grad()
@pytest.mark.parametrize("photo", ["coffee", "hopper", "raccoon"])
def test_in_bfloat16_photos_come_out_the_same(photo: str) -> None:
    """To 50 dB, and the prediction is as near to the one of float32 arithmetic as the plain model's is."""
    x = to_pixels(Image.open(PHOTOS / f"{photo}.jpg").resize((128, 160)))[None] * 2 - 1
    plain, folded = bf16_pipeline(), bf16_pipeline()
    folded.denoiser.fold(T)
    z_l = plain.encode(x)
    assert psnr(*(pipe.decode(pipe.predict(z_l)) for pipe in (plain, folded))) >= 50
    predicted = [pipe.predict_raw(z_l) for pipe in (plain, folded)]
    widened = plain.denoiser
    widened.network.float()
    widened.network.time_text_embed = Constant(folded_embedding().float())
    widened.prompt_embeds, widened.pooled = widened.prompt_embeds.float(), widened.pooled.float()
    exact = plain.predict_raw(z_l)
    ours, theirs = (psnr(each, exact) for each in reversed(predicted))
    assert ours >= theirs - 0.1


def folded_embedding() -> Tensor:
    return denoiser(torch.bfloat16).embedding(T)


def bf16_pipeline() -> OMGSRPipeline:
    return OMGSRPipeline.from_pretrained(
        BASE,
        adapters=ADAPTER.parent,
        family="flux",
        mid_timestep=T,
        prompt=PROMPT,
        dtype=torch.bfloat16,
        tile=16,
        overlap=8,
    )


def test_a_folded_model_has_one_timestep() -> None:
    folded = denoiser()
    folded.fold(T)
    folded.fold(T)
    for t in (T + 1, torch.tensor([T, 244])):
        with pytest.raises(ValueError, match=r"folded at timestep 295 and has no other"):
            folded(latents(2, 16, 4, 4), t)
    with pytest.raises(ValueError, match="has no other; asked for 244"):
        folded.fold(244)
    with pytest.raises(ValueError, match="must be 0 … 999, got 1000"):
        denoiser(fold_at=1000)
    with torch.no_grad():
        assert folded(latents(1, 16, 4, 4), torch.tensor([T])).shape == (1, 16, 4, 4)


def test_an_adapter_that_is_not_merged_is_not_folded_away() -> None:
    transformer = denoiser().network
    transformer.add_adapter(lora_config())
    with pytest.raises(ValueError, match="merge the adapter"):
        fold_transformer(transformer, torch.zeros(1, 64), PROMPT["prompt_embeds"])


def lora_config() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["to_q"])


def test_rotary_tables_are_made_once_for_a_shape() -> None:
    network = denoiser(fold_at=T).network
    rotary_tables.cache_clear()
    first = network.rotary(8, 4)
    assert network.rotary(8, 4) is first
    assert first[0].shape == (16 + 8 * 4, 16)
    assert rotary_tables.cache_info().misses == 1


class LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes of computed or copied tensors at once; views of a mapped file are none."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._known:
            return
        self._known.add(place)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, place, size)

    def _freed(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.live -= size


def sharded(folder: Path) -> Path:
    """The base in two shards, as FLUX comes."""
    target, places = folder / "transformer", dict[str, str]()
    target.mkdir()
    (target / "config.json").write_bytes((BASE / "transformer" / "config.json").read_bytes())
    tensors = load_file(BASE / "transformer" / "diffusion_pytorch_model.safetensors")
    for i in range(2):
        names, shard = sorted(tensors)[i::2], f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, target / shard)
        places |= dict.fromkeys(names, shard)
    index = {"metadata": {}, "weight_map": places}
    (target / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_folded_never_holds_what_is_folded_away(tmp_path: Path, dtype: torch.dtype) -> None:
    base = sharded(tmp_path)
    with LiveBytes() as all_at_once:
        whole = denoiser(dtype, base=base)
        blocks = [*whole.network.transformer_blocks, *whole.network.single_transformer_blocks]
        largest, unfolded = max(map(nbytes, blocks)), nbytes(whole.network)
        del blocks
        whole.fold(T)
    with LiveBytes() as seen:
        lean = denoiser(dtype, fold_at=T, base=base)
    total = nbytes(lean.network)
    assert total <= seen.peak <= total + largest < all_at_once.peak
    assert total < 0.75 * unfolded
    theirs = whole.network.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in lean.network.state_dict().items())
    z = latents(1, 16, 8, 8)
    assert torch.equal(lean(z, T), whole(z, T))


def test_what_does_not_fit_is_refused_while_loading(tmp_path: Path) -> None:
    base = sharded(tmp_path)
    path = min((base / "transformer").glob("*.safetensors"))
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name][:1].contiguous()}, path)
    with pytest.raises(ModelFilesError, match=rf"{name} should be \[.*fetch or copy the base again"):
        denoiser(fold_at=T, base=base)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, path)
    with pytest.raises(ModelFilesError, match=rf"{name} should be .* and is None"):
        denoiser(fold_at=T, base=base)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelFilesError, match="damaged or truncated"):
        denoiser(fold_at=T, base=base)


@torch.no_grad()
def full_size(text_length: int) -> FluxDenoiser:
    """FLUX.1-dev folded, on the meta device."""
    with torch.device("meta"):
        transformer = cast(FluxTransformer2DModel(**FLUX_DEV), torch.bfloat16)
    prompt = torch.empty(1, text_length, 4096, dtype=torch.bfloat16, device="meta")
    pooled = torch.empty(1, 768, dtype=torch.bfloat16, device="meta")
    flux = FluxDenoiser(transformer, FlowSchedule.flux(), prompt, pooled)
    flux.fold(T)
    return flux


def flops(flux: FluxDenoiser, side: int) -> int:
    """Of one image of `side` pixels through the transformer."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        flux(torch.empty(1, 16, side // 8, side // 8, device="meta"), T)
    return counter.get_total_flops()


def test_full_size_counted() -> None:
    """FLUX.1-dev and its VAE in bfloat16, and what 64 text tokens in place of 512 save."""
    long, short = full_size(512), full_size(64)
    with torch.device("meta"):
        vae = cast(AutoencoderKL(**FLUX_VAE), torch.bfloat16)
    assert 17.0e9 < nbytes(long.network, vae) <= 17.5e9
    assert flops(short, 512) <= 0.72 * flops(long, 512)
    assert flops(short, 1024) == pytest.approx(0.89 * flops(long, 1024), rel=0.01)
