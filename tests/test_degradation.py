"""The degradation: each part against its reference or definition, and the whole for its promises."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from model.train import kernels
from model.train.degradation import Degradation, Order, degrade, upsample
from model.train.draw import Draw
from model.train.jpeg import jpeg
from model.train.noise import poisson_noise

PHOTOS = sorted((Path(__file__).parent / "data" / "photos").glob("*.jpg"))
sides = st.integers(16, 130)
seeds = st.integers(0, 2**63 - 1)


def photo(height: int, width: int, index: int = 0, left: int = 0) -> Tensor:
    """A real crop [1,3,H,W] in [-1,1]."""
    with Image.open(PHOTOS[index % len(PHOTOS)]) as image:
        pixels = np.array(image.convert("RGB").crop((left, 40, left + width, 40 + height)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1


def pixels_of(x: Tensor) -> np.ndarray:
    """[1,3,H,W] in [-1,1] → [H,W,3] uint8."""
    return ((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides, seed=seeds, scale=st.sampled_from([2, 3, 4]))
def test_a_damaged_photo_is_small_valid_and_the_same_for_the_same_seed(
    height: int, width: int, seed: int, scale: int
) -> None:
    config = Degradation(scale=scale)
    x = photo(height, width, seed)
    small = degrade(x, [seed], config)
    assert small.shape == (1, 3, height // scale, width // scale)
    assert -1 <= small.min() <= small.max() <= 1
    levels = (small + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert torch.equal(small, degrade(x, [seed], config))


@settings(deadline=None, max_examples=10)
@given(batch=st.lists(seeds, min_size=2, max_size=5, unique=True), side=st.sampled_from([48, 64, 100]))
def test_damage_does_not_depend_on_the_batch(batch: list[int], side: int) -> None:
    x = torch.cat([photo(side, side + 16, index) for index in range(len(batch))])
    together = degrade(x, batch, Degradation())
    alone = [degrade(x[index : index + 1], [seed], Degradation()) for index, seed in enumerate(batch)]
    assert torch.equal(together, torch.cat(alone))


def test_other_seeds_do_other_damage() -> None:
    x = photo(64, 64).expand(8, -1, -1, -1)
    small = degrade(x, range(8), Degradation())
    assert len({image.numpy().tobytes() for image in small}) == 8


def test_without_damage_only_the_size_changes() -> None:
    still = Order(blur=0, resize=(0, 0, 1), gaussian=1, noise=(0, 0), jpeg=(100, 100))
    x = photo(128, 128)
    small = degrade(x, [3], Degradation(final_sinc=0, first=still, second=still))
    assert (small - torch.nn.functional.avg_pool2d(x, 4)).abs().mean() < 0.05
    changed = Order(blur=0, resize=(0, 0, 1), gaussian=1, noise=(30, 30), jpeg=(100, 100))
    noisy = degrade(x, [3], Degradation(final_sinc=0, first=still, second=changed))
    assert (noisy - small).std() * 127.5 > 15


@settings(deadline=None, max_examples=40)
@given(
    height=sides,
    width=st.integers(5, 130),
    index=st.integers(0, 5),
    left=st.integers(0, 300),
    quality=st.integers(1, 100),
)
def test_jpeg_is_pillows_bit_for_bit(height: int, width: int, index: int, left: int, quality: int) -> None:
    x = photo(height, width, index, left)
    file = io.BytesIO()
    Image.fromarray(pixels_of(x)).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        expected = np.asarray(image)
    ours = jpeg((x + 1) / 2, torch.tensor([quality])) * 2 - 1
    assert np.array_equal(pixels_of(ours), expected)


def test_each_image_of_a_batch_has_its_own_quality() -> None:
    x = (photo(64, 64).expand(3, -1, -1, -1) + 1) / 2
    out = jpeg(x, torch.tensor([95.0, 60.0, 10.0]))
    worse = (out - x).abs().mean((1, 2, 3))
    assert worse[0] < worse[1] < worse[2]
    assert torch.equal(out[2:], jpeg(x[:1], torch.tensor([10.0])))


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 60), width=st.integers(1, 60), index=st.integers(0, 5), scale=st.integers(2, 5))
def test_the_network_sees_pillows_enlargement(height: int, width: int, index: int, scale: int) -> None:
    small = photo(height, width, index)
    size = (width * scale, height * scale)
    expected = np.asarray(Image.fromarray(pixels_of(small)).resize(size, Image.Resampling.BICUBIC))
    assert np.array_equal(pixels_of(upsample(small, scale)), expected)


shapes = {"gaussian": kernels.gaussian, "plateau": kernels.plateau}
sigmas = st.floats(0.2, 3.0)
windows = st.sampled_from([7, 9, 15, 21])


@given(kind=st.sampled_from(sorted(shapes)), side=windows, sigma=sigmas, beta=st.floats(0.5, 4.0))
def test_isotropic_kernels_have_every_symmetry_of_the_square(kind: str, side: int, sigma: float, beta: float) -> None:
    kernel = shapes[kind](side, (sigma, sigma), 0.0, beta)
    assert kernel.shape == (side, side)
    assert kernel.min() >= 0
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    for image in (kernel.T, kernel.flip(0), kernel.flip(1)):
        assert torch.allclose(kernel, image, atol=1e-6)


@given(kind=st.sampled_from(sorted(shapes)), side=windows, long=st.floats(1.5, 3.0), angle=st.floats(-math.pi, math.pi))
def test_stretched_kernels_point_where_they_are_turned(kind: str, side: int, long: float, angle: float) -> None:
    kernel = shapes[kind](side, (long, 0.4), angle, 1.0)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(kernel, kernel.flip(0, 1), atol=1e-6)
    steps = torch.arange(side) - side // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    along = (kernel * (x * math.cos(angle) + y * math.sin(angle)) ** 2).sum()
    across = (kernel * (y * math.cos(angle) - x * math.sin(angle)) ** 2).sum()
    assert along > across


@given(side=windows, cutoff=st.floats(math.pi / 3, math.pi))
def test_sinc_kernels_keep_flat_areas_and_ring(side: int, cutoff: float) -> None:
    kernel = kernels.sinc(side, cutoff)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(kernel, kernel.T, atol=1e-6)
    assert torch.allclose(kernel, kernel.flip(0), atol=1e-6)
    assert kernel.min() < 0


def test_filters_act_on_their_own_image_and_end_at_its_edge() -> None:
    x = torch.cat([photo(20, 24, 0), photo(20, 24, 1)])
    blur = kernels.widen(kernels.gaussian(7, (2.0, 2.0)), 21)
    out = kernels.convolve(x, torch.stack([kernels.pulse(21), blur]))
    assert torch.equal(out[0], x[0])
    assert torch.allclose(out[1:], kernels.convolve(x[1:], kernels.gaussian(7, (2.0, 2.0))[None]), atol=1e-5)
    flat = torch.full((1, 3, 5, 9), 0.3)
    assert torch.allclose(kernels.convolve(flat, blur[None]), flat, atol=1e-5)


@pytest.mark.parametrize("level", [1, 30, 128, 255])
def test_poisson_noise_has_the_mean_and_variance_of_counts(level: int) -> None:
    x = torch.full((1, 1, 300, 301), level / 255)
    x[..., 0] = torch.arange(300).clamp(max=255) / 255  # all grey levels occur: 256 counts at white
    uniforms = torch.rand(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(level))
    noise = poisson_noise(x, uniforms)[..., 1:]
    expected = level / 255 / 256
    assert noise.mean().item() == pytest.approx(0, abs=5 * math.sqrt(expected / noise.numel()))
    assert noise.var().item() == pytest.approx(expected, rel=0.03)
    assert torch.allclose((noise + x[..., 1:]) * 256, ((noise + x[..., 1:]) * 256).round(), atol=1e-3)


def test_choices_come_as_often_as_their_shares_say() -> None:
    draw = Draw(5)
    places = [draw.index((0.2, 0.7, 0.1)) for _ in range(4000)]
    assert [places.count(place) / 4000 for place in range(3)] == pytest.approx([0.2, 0.7, 0.1], abs=0.025)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"sigma": (3.0, 0.2)}, "least first"),
        ({"sigma": (0.0, 2.0)}, "greater than 0"),
        ({"resize": (0.5, 0.5, 0.5)}, "sum to 1"),
        ({"kinds": (1.0, 0.0)}, "kinds"),
        ({"sides": (8,)}, "sides"),
        ({"blur": 2}, "less than or equal to 1"),
        ({"blurr": 1}, "blurr"),
    ],
)
def test_bad_strengths_are_refused(bad: dict, match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        Order(**bad)
