"""NIQE is the published one: its fits find known distributions, its numbers are those of another implementation."""

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from model.analysis.niqe import block_features, half, mscn, niqe

PHOTOS = Path(__file__).parent / "data" / "photos"
# By calculate_niqe of BasicSR 1.4.2 (Y channel, no border cut) on the original and on Pillow's bicubic enlargement.
BASICSR = {
    "camera": (3.1773, 10.1638),
    "coffee": (4.0315, 8.8914),
    "dandelions": (4.4472, 11.0858),
    "hopper": (3.5967, 10.8808),
    "raccoon": (3.1947, 13.5563),
    "rocket": (7.0510, 8.4365),
}


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("name", BASICSR)
def test_numbers_are_those_of_basicsr_and_the_original_is_better_than_bicubic(name: str) -> None:
    with Image.open(PHOTOS / f"{name}.jpg") as photo, Image.open(PHOTOS / f"{name}_x4.png") as small:
        enlarged = small.convert("RGB").resize(photo.size, Image.Resampling.BICUBIC)
        original, bicubic = niqe(tensor(photo)).item(), niqe(tensor(enlarged)).item()
    assert (original, bicubic) == pytest.approx(BASICSR[name], rel=5e-3)
    assert original < bicubic


def test_is_the_same_each_time_and_for_each_image_of_a_batch() -> None:
    with Image.open(PHOTOS / "camera.jpg") as photo, Image.open(PHOTOS / "raccoon.jpg") as other:
        batch = torch.cat([tensor(photo), tensor(other)])
    scores = niqe(batch)
    assert scores.dtype == torch.float64
    assert torch.equal(scores, niqe(batch))
    assert torch.equal(scores, torch.cat([niqe(batch[:1]), niqe(batch[1:])]))


def test_the_border_is_cut_first() -> None:
    with Image.open(PHOTOS / "camera.jpg") as photo:
        whole = tensor(photo)
    framed = whole.clone()
    framed[..., :10, :] = framed[..., -10:, :] = framed[..., :10] = framed[..., -10:] = 1
    assert niqe(framed) != niqe(whole)
    assert torch.equal(niqe(framed, border=10), niqe(whole, border=10))


def test_fits_find_the_shape_and_scale_of_known_noise() -> None:
    draw = np.random.default_rng(0)
    normal = block_features(torch.from_numpy(draw.normal(0, 1, (8, 96, 96))))
    assert normal[:, 0].tolist() == pytest.approx([2] * 8, abs=0.1)
    assert normal[:, 1].tolist() == pytest.approx([sqrt(2)] * 8, abs=0.05)
    assert normal[:, 3::4].abs().max() < 0.1  # neighbours do not depend on each other: their products have mean 0
    laplace = block_features(torch.from_numpy(draw.laplace(0, 0.7, (8, 96, 96))))
    assert laplace[:, 0].tolist() == pytest.approx([1] * 8, abs=0.06)
    assert laplace[:, 1].tolist() == pytest.approx([0.7] * 8, abs=0.05)


def test_half_takes_the_middle_of_two_pixels_and_passes_no_detail_that_it_cannot_hold() -> None:
    ramp = torch.arange(32, dtype=torch.float64).expand(32, 32)
    assert torch.allclose(half(ramp)[:, 2:-2], torch.arange(0.5, 32, 2, dtype=torch.float64)[2:-2].expand(16, 12))
    assert torch.allclose(half(ramp.T), half(ramp).T)
    stripes = (torch.arange(32, dtype=torch.float64) % 2).expand(32, 32)
    assert torch.allclose(half(stripes)[:, 2:-2], torch.full((16, 12), 0.5, dtype=torch.float64))


@given(st.integers(16, 235))
def test_a_flat_place_has_no_detail_at_any_level(level: int) -> None:
    assert not mscn(torch.full((20, 20), float(level), dtype=torch.float64)).any()


@pytest.mark.parametrize(
    ("images", "said"), [(torch.rand(1, 3, 96, 191), "too small"), (torch.zeros(1, 3, 192, 192), "not flat")]
)
def test_says_what_it_cannot_judge(images: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        niqe(images)
