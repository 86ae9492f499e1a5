"""The colour fixes: the input's colours, the output's detail."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.color import FIXES, adain, low_frequencies, wavelet

sides = st.integers(2, 90)


def picture(height: int, width: int, seed: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["adain", "wavelet"])
@settings(deadline=None, max_examples=40)
@given(height=sides, width=sides, seed=st.integers(0, 1000))
def test_an_image_of_the_right_colours_stays_as_it_is(name: str, height: int, width: int, seed: int) -> None:
    image = picture(height, width, seed)
    assert torch.allclose(FIXES[name](image, image), image, atol=1e-5)


@pytest.mark.parametrize("name", ["adain", "wavelet"])
@settings(deadline=None, max_examples=40)
@given(height=sides, width=sides, seed=st.integers(0, 1000), shift=st.floats(-0.3, 0.3))
def test_a_colour_shift_is_undone(name: str, height: int, width: int, seed: int, shift: float) -> None:
    image = picture(height, width, seed)
    shifted = image + torch.tensor([shift, 0.0, -shift])[:, None, None]
    assert torch.allclose(FIXES[name](shifted, image), image, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(height=sides, width=sides, seed=st.integers(0, 1000))
def test_adain_takes_mean_and_deviation(height: int, width: int, seed: int) -> None:
    image, reference = picture(height, width, seed), picture(height, width, seed + 1) * 0.5 + 0.2
    fixed = adain(image, reference)
    assert torch.allclose(fixed.mean((1, 2)), reference.mean((1, 2)), atol=1e-4)
    assert torch.allclose(fixed.std((1, 2)), reference.std((1, 2)), atol=1e-2)


@settings(deadline=None, max_examples=40)
@given(height=sides, width=sides, seed=st.integers(0, 1000), level=st.floats(0, 1))
def test_wavelet_keeps_the_detail(height: int, width: int, seed: int, level: float) -> None:
    image, flat = picture(height, width, seed), torch.full((3, height, width), level)
    fixed = wavelet(image, flat)
    assert torch.allclose(fixed - flat, image - low_frequencies(image), atol=1e-5)


def test_the_blur_matches_its_definition() -> None:
    """Against a plain à trous pyramid: a 3×3 kernel [1,2,1]ᵀ[1,2,1]/16 at dilations 1, 2, 4, 8, 16."""
    image = picture(70, 50, 0)
    kernel = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16
    low = image
    for reach in (1, 2, 4, 8, 16):
        padded = torch.nn.functional.pad(low[None], (reach,) * 4, "replicate")
        low = torch.nn.functional.conv2d(padded, kernel.expand(3, 1, 3, 3), groups=3, dilation=reach)[0]
    assert torch.allclose(low_frequencies(image), low, atol=1e-5)
