"""Transparency: what nobody sees does not bleed into what is seen, and a matte grows without rings or shifts."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.images import Picture
from tests.pictures import CORNERS, close

RED, BLUE = (200, 30, 30), (30, 30, 200)
sides = st.integers(1, 40)


def larger(alpha: np.ndarray, size: tuple[int, int], dtype: type = np.uint8) -> np.ndarray:
    """`alpha` as it comes out beside new colours of `size` (width, height)."""
    rgb = np.zeros((*alpha.shape, 3), alpha.dtype)
    return Picture(rgb, alpha).with_rgb(np.zeros((size[1], size[0], 3), dtype)).alpha


def test_what_is_hidden_takes_the_colour_of_what_shows_nearest():
    rgb = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    alpha = np.zeros((40, 90), np.uint8)
    rgb[:, :20], rgb[:, 70:] = RED, BLUE
    alpha[:, :20], alpha[:, 70:] = 255, 3
    filled = Picture(rgb, alpha).filled_rgb
    assert close(filled[:, 19:22], np.full((40, 3, 3), RED), 4)
    assert close(filled[:, 69:71], np.full((40, 2, 3), BLUE), 8)
    steps = np.diff(filled[:, 19:71].astype(int), axis=1)  # from one to the other by and by: no edge to be sharpened
    assert np.abs(steps).max() < 20


@settings(deadline=None, max_examples=60)
@given(width=sides, height=sides, seed=st.integers(0, 999), dtype=st.sampled_from([np.uint8, np.uint16]))
def test_what_shows_is_left_as_it_is(width, height, seed, dtype):
    chance = np.random.default_rng(seed)
    rgb = chance.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)
    alpha = chance.choice(np.array([0, 0, 0, 1, np.iinfo(dtype).max], dtype), (height, width))
    filled = Picture(rgb, alpha).filled_rgb
    assert filled.dtype == dtype
    assert (filled == rgb)[alpha > 0].all()
    if alpha.any():
        seen = rgb[alpha > 0].astype(int)
        assert (filled >= seen.min(0) - 1).all()
        assert (filled <= seen.max(0) + 1).all()
    else:
        assert (filled == rgb).all()


def test_where_nothing_hides_nothing_changes():
    assert (Picture(CORNERS, np.full((32, 48), 1, np.uint8)).filled_rgb == CORNERS).all()
    assert Picture(CORNERS).filled_rgb is CORNERS


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_a_flat_matte_stays_flat_at_any_size_and_depth(level):
    matte = np.full((9, 13), level, np.uint8)
    assert (larger(matte, (52, 36)) == level).all()
    assert (larger(matte, (52, 36), np.uint16) == level * 257).all()
    assert (larger(larger(matte, (13, 9), np.uint16), (31, 17)) == level).all()


def test_an_edge_between_two_levels_neither_rings_nor_moves():
    matte = np.full((32, 48), 60, np.uint8)
    matte[:, 24:] = 190
    rows = larger(matte, (192, 128)).astype(int)
    assert (rows[:, :92] == 60).all()
    assert (rows[:, 100:] == 190).all()
    assert all((a <= b).all() for a, b in pairwise(rows.T))
    assert (rows[:, :96] + rows[:, :95:-1] == 250).all()  # its middle is where it was


@settings(deadline=None, max_examples=60)
@given(width=sides, height=sides, scale=st.floats(1, 8), seed=st.integers(0, 999))
def test_a_matte_stays_between_its_neighbours_and_mirrors(width, height, scale, seed):
    matte = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    size = (round(width * scale), round(height * scale))
    grown = larger(matte, size)
    around = np.pad(matte, 1, "edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3))
    y = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
    x = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
    least, most = windows.min((2, 3))[y][:, x], windows.max((2, 3))[y][:, x]
    even = scale == int(scale)  # else a new pixel's middle may lie on a border, and its side is a matter of rounding
    if even:
        assert (grown >= least).all()
        assert (grown <= most).all()
        assert np.abs(larger(matte[:, ::-1].copy(), size)[:, ::-1].astype(int) - grown).max() <= 1
    assert grown.min() >= matte.min()
    assert grown.max() <= matte.max()
