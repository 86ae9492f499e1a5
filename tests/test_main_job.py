"""The main job on the bundled mini: real sizes, real tiles."""

from pathlib import Path

import pytest
from PIL import Image

from model import OMGSRPipeline
from model.plan import tile_count
from model.variant import find_variants, verify_variant

WEIGHTS = Path(__file__).parent.parent / "model" / "weights"


@pytest.fixture(scope="module")
def mini() -> OMGSRPipeline:
    return OMGSRPipeline.from_variant(WEIGHTS / "omgsr-s-mini")


def test_every_bundled_variant_is_sound() -> None:
    variants = find_variants([WEIGHTS])
    assert variants
    assert {folder.name: verify_variant(folder) for folder in variants} == {folder.name: [] for folder in variants}


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [((700, 450), 2, (1400, 900)), ((301, 199), 4, (1204, 796)), ((64, 40), 4, (256, 160))],
)
def test_a_photo_of_any_size_goes_through_tiles(
    mini: OMGSRPipeline, size: tuple[int, int], scale: float, expected: tuple[int, int]
) -> None:
    photo = Image.open(WEIGHTS / "sample.jpg").convert("RGB").resize(size)
    assert tile_count(size, scale, mini.geometry) > 1
    (image,) = mini([photo], scale=scale)
    assert image.size == expected
