"""An image too large for the VAE to take whole goes in strips: in less memory, and nobody can tell by the image."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from model.pipeline import to_pixels
from model.plan import BytesPerPixel, Work, peak_bytes
from service.settings import Settings
from service.worker.variants import load_models
from tests.golden import golden_pipeline


@pytest.mark.parametrize("case", ["s/tiled_t195", "f/tiled_t295"])
@pytest.mark.parametrize("folded", [False, True])
def test_the_image_is_the_same_in_strips(case: str, folded: bool) -> None:
    pipe = golden_pipeline(case)
    photo = Image.effect_noise((50, 70), 60).convert("RGB")
    (whole,) = pipe([photo], scale=4)
    if folded:
        pipe.fold()
    pipe.vae.whole_pixels = 200 * 250
    assert pipe.vae.goes_in_strips(200, 280)
    (stripped,) = pipe([photo], scale=4)
    assert (to_pixels(whole) - to_pixels(stripped)).abs().max() <= 1.01 / 255
    pixels = torch.rand(1, 3, 288, 208) * 2 - 1
    z_l = pipe.encode(pixels)
    pipe.vae.whole_pixels = None
    assert (z_l - pipe.encode(pixels)).abs().max() <= 1e-4 * z_l.abs().max()


def test_memory_is_that_of_a_whole_image_of_the_limit_and_a_little_for_each_pixel() -> None:
    each = BytesPerPixel(encode=50, predict=10, decode=100, whole_pixels=1000, striped=2)
    assert peak_bytes(Work("decode", 25, 40), 1, each) == 100_000
    assert peak_bytes(Work("decode", 50, 40), 1, each) == 29_000
    assert peak_bytes(Work("encode", 500, 40), 2, each) == 2 * (12_500 + 40_000)
    assert peak_bytes(Work("predict", 500, 40), 1, each) == 200_000, "tiles are small"


def test_a_worker_takes_images_whole_as_long_as_they_fit(tiny_models: Path) -> None:
    loaded = load_models(
        Settings(models=[tiny_models / "tiny-s"], device="cpu", backend="eager", max_device_bytes=200_000_000)
    )
    (served,) = loaded.served.values()
    assert served.pipe.vae.whole_pixels == served.each.whole_pixels
    limit = served.each.whole_pixels
    assert peak_bytes(Work("decode", 1, limit), 1, served.each) <= 0.75 * loaded.budget_bytes
    assert peak_bytes(Work("decode", 3, limit // 2), 1, served.each) < peak_bytes(
        Work("decode", 1, limit), 1, served.each
    )
