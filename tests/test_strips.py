"""Strips are the whole image: the same numbers up to rounding, at any size, whatever is in the picture."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from model.files import load_component
from model.fold.autoencoder import fold_autoencoder
from model.strips.moments import Moments
from model.strips.strips import Strips
from tests.golden import GOLDEN

WEIGHTS = Path(__file__).parent.parent / "model" / "weights"
EXACT = 1e-5
"""Of the largest value: what float32 rounds away in some thirty layers. The issue asks for 1e-3."""


@pytest.fixture(scope="module")
def mini() -> AutoencoderKL:
    return load_component(AutoencoderKL, WEIGHTS / "bases" / "omgsr-s-mini-base" / "vae").float()


def whole_encode(autoencoder: AutoencoderKL, x: Tensor) -> Tensor:
    with torch.no_grad():
        mean: Tensor = autoencoder.encode(x).latent_dist.mode()
    return mean


def whole_decode(autoencoder: AutoencoderKL, z: Tensor) -> Tensor:
    with torch.no_grad():
        pixels: Tensor = autoencoder.decode(z).sample
    return pixels


def off(found: Tensor, true: Tensor) -> float:
    assert found.shape == true.shape
    return float((found.double() - true.double()).abs().max() / true.abs().max())


def check_strips(autoencoder: AutoencoderKL, x: Tensor, rows: int) -> None:
    """Against the whole in float64."""
    exact, strips = copy.deepcopy(autoencoder).double(), Strips(autoencoder, rows)
    z = whole_encode(exact, x.double())
    assert off(strips.encode_mode(x), z) <= EXACT
    assert off(strips.decode(z), whole_decode(exact, z)) <= EXACT


def photo(width: int, height: int) -> Tensor:
    picture = Image.open(WEIGHTS / "sample.jpg").convert("RGB").resize((width, height))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def half_flat_half_noise(size: int) -> Tensor:
    picture = torch.full((1, 3, size, size), 0.3)
    picture[..., size // 2 :] = torch.rand(1, 3, size, size // 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return picture


def folded(autoencoder: AutoencoderKL) -> AutoencoderKL:
    made = copy.deepcopy(autoencoder)
    fold_autoencoder(made)
    return made


def small(channels: tuple[int, ...] = (8, 8, 16), *, quant: bool = True, layers: int = 1) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=4,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    ).eval()


def test_a_photo_in_strips_is_the_photo_whole(mini: AutoencoderKL) -> None:
    x = photo(768, 1152)
    z = whole_encode(mini, x)
    pixels = whole_decode(mini, z)
    for rows in (128, 256):
        strips = Strips(mini, rows)
        assert off(strips.encode_mode(x), z) <= EXACT
        assert off(strips.decode(z), pixels) <= EXACT


def test_half_flat_half_noise_is_exact_where_tiles_are_not(mini: AutoencoderKL) -> None:
    """A tile of the flat half is normed by the flat half's statistics: wrong by more than a hundredth."""
    x = half_flat_half_noise(512)
    z = whole_encode(mini, x)
    pixels = whole_decode(mini, z)
    for rows in (128, 256):
        strips = Strips(mini, rows)
        assert off(strips.encode_mode(x), z) <= EXACT
        assert off(strips.decode(z), pixels) <= EXACT
    tiled = AutoencoderKL.from_config({**mini.config, "sample_size": 256})
    tiled.load_state_dict(mini.state_dict())
    tiled.enable_tiling()
    with torch.no_grad():
        assert off(tiled.encode(x).latent_dist.mode(), z) > 1e-2
        assert off(tiled.decode(z).sample, pixels) > 1e-2


@pytest.mark.parametrize("letter", ["s", "f"])
def test_both_families_in_batches(letter: str) -> None:
    """S has quant convolutions, F has none."""
    autoencoder = load_component(AutoencoderKL, GOLDEN / letter / "base" / "vae")
    x = torch.cat([photo(96, 200), half_flat_half_noise(200)[..., :96]])
    check_strips(autoencoder, x, 64)


@pytest.mark.parametrize("change", [folded, lambda same: same])
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 13), st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_size_in_strips_of_any_height(
    change: Callable[[AutoencoderKL], AutoencoderKL], height: int, width: int, rows: int, quant: bool
) -> None:
    """Sizes and strips in latents, down to one row; the last strip is as high as it comes out."""
    autoencoder = change(small(quant=quant))
    x = torch.rand(1, 3, 4 * height, 4 * width, generator=torch.Generator().manual_seed(height)) * 2 - 1
    check_strips(autoencoder, x, 4 * rows)


def test_bfloat16() -> None:
    """bfloat16 rounds differently in strips, but no worse than it does in the whole."""
    autoencoder = small((8, 16), layers=2).to(torch.bfloat16)
    x = photo(64, 96).bfloat16()
    z = whole_encode(copy.deepcopy(autoencoder).double(), x.double())
    found, plain = Strips(autoencoder, 32).encode_mode(x), whole_encode(autoencoder, x)
    assert found.dtype == torch.bfloat16
    assert off(found, z) <= 1.5 * off(plain, z)


def test_what_strips_cannot_do_exactly_is_refused(mini: AutoencoderKL) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        Strips(mini, 100)
    with pytest.raises(ValueError, match="multiples of 8"):
        Strips(mini, 64).encode_mode(torch.zeros(1, 3, 64, 60))
    relu = small()
    relu.register_to_config(act_fn="relu")
    with pytest.raises(ValueError, match="SiLU"):
        Strips(relu, 64)
    with pytest.raises(ValueError, match="several levels"):
        Strips(AutoencoderKL(block_out_channels=(32,)), 64)
    strange = small()
    strange.decoder.conv_out = nn.Conv2d(8, 3, 5, padding=2)
    with pytest.raises(ValueError, match="do not know this layer"):
        Strips(strange, 64).decode(torch.zeros(1, 4, 8, 8))


def test_statistics_survive_a_mean_far_from_zero() -> None:
    """Float32 sums of squares would lose the deviations: 1 beside a mean of 1000."""
    x = torch.randn(1, 8, 100, 64, generator=torch.Generator().manual_seed(0)) + 1000
    norm = nn.GroupNorm(4, 8)
    moments = Moments()
    for strip in x.split(16, dim=2):
        moments.add(strip)
    normed = torch.empty_like(x)
    moments.norming(norm)(x, normed)
    assert off(normed, norm.double()(x.double()).detach()) <= 1e-3
