"""An image too large for the VAE to take whole goes in strips: in less memory, and nobody can tell by the image."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from model.pipeline import to_pixels
from model.plan import STRIP_PIXELS, BytesPerPixel, Work, peak_bytes
from service.settings import Settings
from service.worker.memory import allow_strips
from service.worker.served import Served
from service.worker.variants import load_models
from service.worker.warm_up import measure
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


def test_memory_is_that_of_two_strips_and_a_little_for_each_pixel() -> None:
    each = BytesPerPixel(encode=50, predict=10, decode=100, whole_pixels=1000, strip_pixels=125, striped=2)
    assert peak_bytes(Work("decode", 25, 40), 1, each) == 100_000
    assert peak_bytes(Work("decode", 50, 40), 1, each) == 29_000
    assert peak_bytes(Work("encode", 500, 40), 2, each) == 2 * (12_500 + 40_000)
    assert peak_bytes(Work("predict", 500, 40), 1, each) == 200_000, "tiles are small"
    small = BytesPerPixel(encode=50, predict=10, decode=100, whole_pixels=0, strip_pixels=125, striped=2)
    assert peak_bytes(Work("decode", 10, 10), 1, small) == 10_200, "an image of less than two strips is not two"


def test_a_worker_takes_images_whole_as_long_as_they_fit() -> None:
    pipe = golden_pipeline("s/tiled_t195")
    each, budget = measure(pipe).each, 200_000_000
    each = allow_strips(pipe.vae, each, budget, compiled=True)
    limit = each.whole_pixels
    assert pipe.vae.whole_pixels == limit
    assert peak_bytes(Work("decode", 1, limit), 1, each) <= 0.75 * budget
    assert peak_bytes(Work("decode", 3, limit // 2), 1, each) < peak_bytes(Work("decode", 1, limit), 1, each)


def test_torch_on_a_cpu_takes_all_images_in_strips_that_fit(tiny_models: Path) -> None:
    def served(room: int) -> Served:
        settings = Settings(models=[tiny_models / "tiny-s"], device="cpu", backend="eager", max_device_bytes=room)
        (only,) = load_models(settings).served.values()
        return only

    with_room, without = served(32_000_000_000), served(200_000_000)
    for each in (with_room, without):
        assert each.pipe.vae.goes_in_strips(8, 8)
        assert each.pipe.vae.strip_pixels == each.each.strip_pixels
    assert with_room.each.strip_pixels == STRIP_PIXELS
    strips = 2 * without.each.strip_pixels * without.each.decode
    assert strips <= 0.4 * 200_000_000
