"""Losses of two images: overlapping chunks, LPIPS, DISTS and the deep-feature distance, each with its gradient."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

from model.train.losses.chunks import OverlapChunked, chunks, offsets
from model.train.losses.deep_feature import DeepFeatureLoss
from model.train.losses.lpips import LPIPS
from model.train.losses.structure import DISTS
from model.train.losses.vgg16 import VGG16Maps
from tests.golden import GOLDEN
from tests.random_backbones import dists_weights_file, lpips_heads_file, mobilenet_v2_file, vgg16_file

LOSSES = ("lpips", "dists", "deep_feature")


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nn.Module]:
    folder = tmp_path_factory.mktemp("losses")
    vgg = vgg16_file(folder)
    return {
        "lpips": LPIPS(vgg, lpips_heads_file(folder)),
        "dists": DISTS(vgg, dists_weights_file(folder)),
        "deep_feature": DeepFeatureLoss(mobilenet_v2_file(folder)),
    }


def pictures(*sides: int, count: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An original [count,3,H,W] in [-1,1] and the same with noise, of each its own strength."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator) * 2 - 1
    original = F.interpolate(coarse, sides, mode="bilinear")
    noise = torch.randn(original.shape, generator=generator) * torch.linspace(0.1, 0.3, count).view(-1, 1, 1, 1)
    return (original + noise).clamp(-1, 1), original


@pytest.mark.parametrize("case", json.loads((GOLDEN / "util" / "overlap_chunk.json").read_text()))
def test_chunks_are_the_references_where_it_covers_the_image(case: dict) -> None:
    side, size = case["size"], case["patch"]
    assert case["uncovered_pixels_at_end"] == 0
    assert offsets(side, size) == case["axis_offsets"]
    x = torch.arange(3 * side * side, dtype=torch.float32).view(1, 3, side, side)
    cut = chunks(x, size)
    assert list(cut.shape) == [case["n_patches"], *case["patch_shape"]]
    corners = [divmod(int(corner), side) for corner in cut[:, 0, 0, 0]]
    assert corners == [tuple(corner) for corner in case["top_left_yx"]]


@settings(deadline=None)
@given(side=st.integers(1, 3000), size=st.integers(1, 600))
def test_chunks_cover_every_pixel_evenly_with_as_few_as_possible(side: int, size: int) -> None:
    starts = offsets(side, size)
    assert starts[0] == 0
    assert starts[-1] == max(side - size, 0)
    assert len(starts) == -(-side // size)
    gaps = [b - a for a, b in pairwise(starts)]
    assert all(gap <= size for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(4, 30), count=st.integers(1, 4))
def test_each_pixel_of_each_image_is_in_a_chunk(height: int, width: int, size: int, count: int) -> None:
    x = torch.zeros(count, 3, height, width, requires_grad=True)
    cut = chunks(x, size)
    assert cut.shape[-2:] == (min(height, size), min(width, size))
    (seen,) = torch.autograd.grad(cut.sum(), x)
    assert seen.min() >= 1
    # image by image: the first chunks are all of the first image, also in a batch of 3
    (seen,) = torch.autograd.grad(chunks(x, size)[: len(cut) // count].sum(), x)
    assert seen[0].min() >= 1
    assert seen[1:].sum() == 0


def test_a_small_image_is_one_chunk() -> None:
    x = torch.randn(3, 3, 96, 100)
    assert torch.equal(chunks(x, 518), x)


def test_a_chunked_loss_is_the_mean_over_the_chunks(losses: dict[str, nn.Module]) -> None:
    restored, original = pictures(40, 56, count=3)
    each = [losses["lpips"](a[None], b[None]) for a, b in zip(chunks(restored, 32), chunks(original, 32), strict=True)]
    assert len(each) == 3 * 2 * 2
    chunked = OverlapChunked(losses["lpips"], 32)
    assert chunked(restored, original).item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_zero_for_equal_images_symmetric_and_grows_with_damage(
    name: str, losses: dict[str, nn.Module]
) -> None:
    loss = losses[name]
    restored, original = pictures(32, 48, count=2)
    assert loss(original, original).item() == pytest.approx(0, abs=1e-6)
    assert loss(restored, original).item() == pytest.approx(loss(original, restored).item(), rel=1e-5)
    assert 0 < loss(original + 0.3 * (restored - original), original) < loss(restored, original)
    singles = [loss(restored[i : i + 1], original[i : i + 1]).item() for i in range(2)]
    assert loss(restored, original).item() == pytest.approx(sum(singles) / 2, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_right(name: str, losses: dict[str, nn.Module]) -> None:
    """Central differences along the gradient and along a random direction, in float64."""
    restored, original = (x.double() for x in pictures(16, 20))
    loss = losses[name].double()
    restored.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(restored, original), restored)
    random = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    # the deep-feature distance ends in float32, and needs a step that stands out of its rounding
    step, tolerance = (1e-3, 2e-2) if name == "deep_feature" else (1e-6, 1e-4)
    with torch.no_grad():
        for direction in (gradient / gradient.norm(), (gradient / gradient.norm() + random / random.norm())):
            ends = [loss(restored + sign * step * direction, original).item() for sign in (1, -1)]
            expected = (gradient * direction).sum().item()
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=tolerance)
    losses[name].float()


def test_the_gradient_is_right_through_chunks() -> None:
    restored, original = (x.double() for x in pictures(9, 13))
    chunked = OverlapChunked(nn.MSELoss(), 6)
    assert gradcheck(lambda x: chunked(x, original), restored.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_equal_and_flat_images_have_a_finite_gradient(name: str, losses: dict[str, nn.Module]) -> None:
    for value in (-1, 0, 1):
        flat = torch.full((1, 3, 32, 32), float(value), requires_grad=True)
        (gradient,) = torch.autograd.grad(losses[name](flat, flat.detach()), flat)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(name: str, losses: dict[str, nn.Module]) -> None:
    restored, original = pictures(32, 32)
    exact = losses[name](restored, original)
    with torch.autocast("cpu", torch.bfloat16):
        assert losses[name](restored, original).item() == pytest.approx(exact.item(), rel=1e-6)


def test_lpips_is_its_formula(losses: dict[str, nn.Module], tmp_path: Path) -> None:
    """Position by position, from the maps and the heads' file."""
    restored, original = pictures(16, 16)
    maps = VGG16Maps(vgg16_file(tmp_path))
    heads = torch.load(lpips_heads_file(tmp_path), weights_only=True)
    loss, expected = LPIPS(tmp_path / "vgg16.safetensors", tmp_path / "vgg.pth"), 0.0
    for level, (x, y) in enumerate(zip(maps(restored), maps(original), strict=True)):
        w = heads[f"lin{level}.model.1.weight"].flatten()
        positions = [
            (w * (x[0, :, i, j] / x[0, :, i, j].norm() - y[0, :, i, j] / y[0, :, i, j].norm()).square()).sum().item()
            for i in range(x.shape[2])
            for j in range(x.shape[3])
        ]
        expected += sum(positions) / len(positions)
    assert loss(restored, original).item() == pytest.approx(expected, rel=1e-4)


def test_dists_looks_at_texture_not_at_place(losses: dict[str, nn.Module]) -> None:
    """Grass is grass wherever its blades lie: moved noise is nearer to itself than flat grey is, unlike for MSE."""
    texture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).clamp(-2, 2) / 2
    moved, grey = texture.roll((17, 23), (2, 3)), torch.zeros_like(texture)
    assert losses["dists"](moved, texture) < losses["dists"](grey, texture)
    assert F.mse_loss(moved, texture) > F.mse_loss(grey, texture)
