"""Sizes, tiles and batches: any image, any company, the same result."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model import OMGSRPipeline
from model.pipeline import to_pixels
from model.plan import Box, Geometry, output_size, stages, tile_count, tiles
from model.tiles import blend, cut
from tests.golden import golden_pipeline

sizes = st.integers(1, 5000)
geometries = st.builds(
    lambda tile, overlap, multiple: Geometry(tile * 8, tile, min(overlap, tile - 1), multiple),
    tile=st.integers(8, 128).map(lambda n: n * 2),
    overlap=st.integers(0, 100),
    multiple=st.sampled_from([8, 16]),
)


@settings(deadline=None)
@given(width=sizes, height=sizes, scale=st.floats(1, 8), geometry=geometries)
def test_plan_holds_for_every_size(width: int, height: int, scale: float, geometry: Geometry) -> None:
    plan = stages((width, height), scale, geometry)
    assert plan[-1].output == output_size((width, height), scale) == (round(scale * width), round(scale * height))
    assert len(plan) == (2 if scale > 4 else 1)
    for stage in plan:
        assert min(stage.processed) >= geometry.process_size
        for processed, padded in zip(stage.processed, stage.padded, strict=True):
            assert padded % geometry.multiple == 0
            assert processed <= padded < processed + geometry.multiple


@settings(deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), tile=st.integers(8, 96), overlap=st.integers(0, 95))
def test_tiles_cover_every_latent(height: int, width: int, tile: int, overlap: int) -> None:
    boxes = tiles(height, width, tile, min(overlap, tile - 1)) or [Box(0, 0, max(height, width))]
    assert len(set(boxes)) == len(boxes)
    covered = torch.zeros(height, width)
    for box in boxes:
        covered[box.y : box.y + box.side, box.x : box.x + box.side] = 1
    assert covered.all()


@settings(max_examples=30, deadline=None)
@given(height=st.integers(8, 40), width=st.integers(17, 60), overlap=st.integers(0, 15), seed=st.integers(0, 9))
def test_blending_what_was_cut_gives_it_back(height: int, width: int, overlap: int, seed: int) -> None:
    latent = torch.randn(4, height, width, generator=torch.Generator().manual_seed(seed))
    boxes = tiles(height, width, 16, overlap) or [Box(0, 0, 16)]
    if height * width > 256:
        assert torch.allclose(blend(cut(latent, boxes), boxes, height, width), latent, atol=1e-5)


def test_a_side_shorter_than_the_tile_shrinks_the_tile_to_it() -> None:
    boxes = tiles(12, 40, tile=16, overlap=8)
    assert {box.side for box in boxes} == {12}
    assert [box.x for box in boxes] == [0, 4, 8, 12, 16, 20, 24, 28]


@pytest.mark.parametrize("case", ["s/tiled_t195", "f/tiled_t295"])
@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [((70, 45), 2, (140, 90)), ((31, 19), 4, (124, 76)), ((33, 40), 1, (33, 40)), ((20, 15), 2.5, (50, 38))],
)
def test_any_size_comes_out_exactly_scaled(
    case: str, size: tuple[int, int], scale: float, expected: tuple[int, int]
) -> None:
    pipe = golden_pipeline(case)
    photo = Image.effect_noise(size, 60).convert("RGB")
    (image,) = pipe([photo], scale=scale)
    assert image.size == expected


def test_beyond_4x_is_two_stages() -> None:
    pipe = golden_pipeline("s/tiled_t195")
    photo = Image.effect_noise((40, 36), 60).convert("RGB")
    encodes = sum(op.key[0].__name__ == "Encode" for op in _ops(pipe, photo, scale=6))
    assert encodes == 2
    assert pipe([photo], scale=6)[0].size == (240, 216)


@pytest.mark.parametrize("case", ["s/tiled_t195", "f/tiled_t295"])
def test_a_batch_equals_single_calls(case: str) -> None:
    pipe = golden_pipeline(case)
    pixels = [torch.rand(3, *size, generator=torch.Generator().manual_seed(n)) for n, size in enumerate([(40, 50)] * 3)]
    x = torch.stack([torch.nn.functional.interpolate(p[None], (160, 192))[0] * 2 - 1 for p in pixels])
    together = pipe.decode(pipe.predict(pipe.encode(x)))
    alone = torch.cat([pipe.decode(pipe.predict(pipe.encode(each[None]))) for each in x])
    assert (together - alone).abs().max() <= 1e-4


def test_strangers_in_a_batch_change_nothing() -> None:
    pipe = golden_pipeline("s/tiled_t195")
    photos = [Image.effect_noise(size, 60).convert("RGB") for size in [(40, 32), (64, 48), (32, 32)]]
    together = pipe(photos, scale=4)
    for photo, image in zip(photos, together, strict=True):
        (alone,) = pipe([photo], scale=4)
        assert (to_pixels(image) - to_pixels(alone)).abs().max() <= 1.01 / 255


@pytest.mark.parametrize(("size", "scale"), [((70, 45), 2), ((31, 19), 4), ((40, 36), 6)])
def test_the_plan_counts_the_tiles_that_run(size: tuple[int, int], scale: float) -> None:
    pipe = golden_pipeline("s/tiled_t195")
    photo = Image.effect_noise(size, 60).convert("RGB")
    predicted = sum(op.key[0].__name__ == "Predict" for op in _ops(pipe, photo, scale))
    assert predicted == tile_count(size, scale, pipe.geometry)


def test_strength_goes_from_the_input_to_the_prediction() -> None:
    pipe = golden_pipeline("s/tiled_t195")
    photo = Image.effect_noise((32, 32), 60).convert("RGB")
    images = [pipe([photo], scale=4, strength=s, color_fix="none")[0] for s in (0, 0.5, 1)]
    assert len({image.tobytes() for image in images}) == 3
    z_l = pipe.encode(next(pipe.upscale(to_pixels(photo), scale=4))[0].tensor[None])
    bare = (pipe.decode(z_l)[0] + 1) / 2
    ours = to_pixels(images[0])
    assert (ours - bare).abs().max() <= 1 / 255


@pytest.mark.parametrize(
    "options", [{"scale": 0.5}, {"scale": 9}, {"strength": -0.1}, {"strength": 1.3}, {"color_fix": "sepia"}]
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    pipe = golden_pipeline("s/tiled_t195")
    with pytest.raises(ValueError, match=next(iter(options))):
        pipe([Image.new("RGB", (32, 32))], **options)


def _ops(pipe: OMGSRPipeline, photo: Image.Image, scale: float) -> list:
    """Every op that an image yields on its way."""
    seen = []
    steps = pipe.upscale(to_pixels(photo), scale=scale)
    ops = next(steps)
    while True:
        seen += ops
        try:
            ops = steps.send(pipe.execute(ops[:1]) * len(ops))
        except StopIteration:
            return seen
