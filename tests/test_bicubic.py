"""What the networks see of a photo is what Pillow makes of it, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from model.bicubic import bicubic

PHOTOS = sorted((Path(__file__).parent / "data" / "photos").glob("*.jpg"))
BICUBIC = Image.Resampling.BICUBIC
sides = st.one_of(st.integers(1, 12), st.integers(1, 300))
sizes = st.tuples(sides, sides)


def photo(size: tuple[int, int], index: int = 0) -> Image.Image:
    """A real crop."""
    with Image.open(PHOTOS[index % len(PHOTOS)]) as image:
        return image.convert("RGB").crop((10, 20, 10 + size[0], 20 + size[1]))


def pixels_of(image: Image.Image) -> Tensor:
    """[3,H,W] in [0,1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def assert_equals(ours: Tensor, theirs: Image.Image) -> None:
    assert torch.equal(ours, pixels_of(theirs))


@settings(deadline=None, max_examples=100)
@given(size=sizes, index=st.integers(0, 5), data=st.data())
def test_a_photo_grows_as_pillow_has_it(size: tuple[int, int], index: int, data: st.DataObject) -> None:
    larger = data.draw(st.tuples(*(st.integers(side, max(4 * side, 40)) for side in size)))
    assert_equals(bicubic(pixels_of(photo(size, index)), larger), photo(size, index).resize(larger, BICUBIC))


@settings(deadline=None, max_examples=100)
@given(size=sizes, other=sizes, index=st.integers(0, 5))
def test_each_axis_grows_or_shrinks_as_pillow_has_it(size: tuple[int, int], other: tuple[int, int], index: int) -> None:
    across = photo(size, index).resize((other[0], size[1]), BICUBIC)
    assert_equals(bicubic(pixels_of(photo(size, index)), other), across.resize(other, BICUBIC))


@settings(deadline=None, max_examples=30)
@given(size=sizes, other=sizes, seed=st.integers(0, 2**32 - 1))
def test_overshoot_is_cut_off_after_each_axis(size: tuple[int, int], other: tuple[int, int], seed: int) -> None:
    harsh = np.random.default_rng(seed).choice(np.array([0, 255], np.uint8), (size[1], size[0], 3))
    image = Image.fromarray(harsh)
    across = image.resize((other[0], size[1]), BICUBIC)
    assert_equals(bicubic(pixels_of(image), other), across.resize(other, BICUBIC))


@pytest.mark.parametrize(("size", "other"), [((512, 341), (2048, 1364)), ((6000, 2), (1000, 3)), ((2, 3000), (3, 700))])
def test_sizes_of_real_work(size: tuple[int, int], other: tuple[int, int]) -> None:
    image = photo((400, 300)).resize(size)
    across = image.resize((other[0], size[1]), BICUBIC)
    assert_equals(bicubic(pixels_of(image), other), across.resize(other, BICUBIC))


def test_a_batch_is_its_images_and_the_dtype_stays() -> None:
    images = torch.stack([pixels_of(photo((40, 30), index)) for index in range(3)])
    larger = bicubic(images, (90, 70))
    assert larger.shape == (3, 3, 70, 90)
    assert all(torch.equal(bicubic(image, (90, 70)), each) for image, each in zip(images, larger, strict=True))
    doubled = bicubic(images.double(), (90, 70))
    assert doubled.dtype == torch.float64
    assert torch.equal((doubled * 255).round(), (larger * 255).round().double())


def test_what_lies_between_levels_is_rounded_first() -> None:
    image = pixels_of(photo((40, 30)))
    between = (image + 0.4 / 255).clamp(max=1)
    assert torch.equal(bicubic(between, (40, 30)), image)
