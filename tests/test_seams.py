"""Tiled diffusion leaves no trace: neither where tiles end nor by where the grid of tiles happens to lie."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from model import OMGSRPipeline
from model.analysis.quality import psnr
from model.analysis.seams import grid, made_on, seam_ratio
from model.pipeline import to_pixels
from model.plan import Box, Geometry, tile_count, tiles

ROOT = Path(__file__).parent.parent
SHIFT = 8  # latents


@pytest.fixture(scope="module")
def pipe() -> OMGSRPipeline:
    return OMGSRPipeline.from_variant(ROOT / "model" / "weights" / "omgsr-s-mini")


def latent(pipe: OMGSRPipeline, name: str) -> Tensor:
    """A real photo as a latent of 128 × 96, six tiles of the mini."""
    with Image.open(ROOT / "tests" / "data" / "photos" / f"{name}.jpg") as image:
        photo = image.convert("RGB").resize((192, 256), Image.Resampling.LANCZOS)
    (encode,) = next(pipe.upscale(to_pixels(photo), scale=4))
    return pipe.encode(encode.tensor[None])[0]


@pytest.fixture(scope="module", params=["raccoon", "rocket"])
def z_l(pipe: OMGSRPipeline, request: pytest.FixtureRequest) -> Tensor:
    """Fur, and much sky, where a seam shows most."""
    return latent(pipe, request.param)


@pytest.fixture(scope="module")
def boxes(pipe: OMGSRPipeline, z_l: Tensor) -> list[Box]:
    return grid(*z_l.shape[-2:], pipe.geometry)


@pytest.fixture(scope="module")
def tiled(pipe: OMGSRPipeline, z_l: Tensor, boxes: list[Box]) -> Tensor:
    return made_on(pipe, z_l, boxes)


@pytest.fixture(scope="module")
def whole(pipe: OMGSRPipeline, z_l: Tensor) -> Tensor:
    """The same photo without tiles: what a seam is told from the photo's own edges by."""
    return made_on(pipe, z_l)


def test_fewer_larger_tiles_are_a_matter_of_the_plan() -> None:
    """2048 px by nine tiles of 1024 px, or by four of 1152."""
    nine, four = Geometry(1024, tile=128, overlap=64, multiple=16), Geometry(1024, tile=144, overlap=32, multiple=16)
    assert [tile_count((1024, 1024), 2, geometry) for geometry in (nine, four)] == [9, 4]
    assert {box.side for box in grid(256, 256, four)} == {144}


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    tile=st.integers(4, 64),
    overlap=st.integers(0, 63),
    shift=st.integers(0, 16),
)
def test_a_shifted_grid_covers_every_latent(height: int, width: int, tile: int, overlap: int, shift: int) -> None:
    geometry = Geometry(process_size=64, tile=tile, overlap=min(overlap, tile - 1), multiple=8)
    if height * width <= tile * tile:
        with pytest.raises(ValueError, match="no grid"):
            grid(height, width, geometry, shift)
        return
    covered = torch.zeros(height, width)
    for box in grid(height, width, geometry, shift):
        covered[box.y : box.y + box.side, box.x : box.x + box.side] += 1
    assert covered.all()
    assert grid(height, width, geometry) == tiles(height, width, geometry.tile, geometry.overlap)


def test_where_the_grid_lies_does_not_show(pipe: OMGSRPipeline, z_l: Tensor, boxes: list[Box], tiled: Tensor) -> None:
    shifted = grid(*z_l.shape[-2:], pipe.geometry, SHIFT)
    assert {box.x for box in shifted} != {box.x for box in boxes}
    assert {box.y for box in shifted} != {box.y for box in boxes}
    assert psnr(tiled, made_on(pipe, z_l, shifted)) >= 40


def test_tiles_end_where_nobody_sees_it(boxes: list[Box], tiled: Tensor, whole: Tensor) -> None:
    assert seam_ratio(tiled, boxes) == pytest.approx(seam_ratio(whole, boxes), rel=0.05)


def test_without_an_overlap_it_would_show(pipe: OMGSRPipeline) -> None:
    sky = latent(pipe, "rocket")  # in fur even the seams of abutting tiles are lost
    abutting = grid(*sky.shape[-2:], replace(pipe.geometry, overlap=0))
    assert seam_ratio(made_on(pipe, sky, abutting), abutting) > 1.05 * seam_ratio(made_on(pipe, sky), abutting)


def test_the_grid_is_the_one_that_the_pipeline_uses(pipe: OMGSRPipeline, z_l: Tensor) -> None:
    part = z_l[:, :72, :64]
    image = made_on(pipe, part, grid(72, 64, pipe.geometry))
    assert torch.equal(image, pipe.decode(pipe.predict(part[None]))[0])
