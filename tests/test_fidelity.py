"""What goes in comes out: files through a model, as `omgsr upscale` takes them, and through the service."""

from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from model import OMGSRPipeline
from model.plan import tile_count
from service.errands import Errand
from service.images import Picture, decode
from service.job import UpscaleOptions
from service.local import upscale_file
from service.settings import BUNDLED_MODELS, Settings
from service.worker.pixels import to_picture
from tests.pictures import SRGB, deep_png, file
from tests.running import Service

LIMIT = 10_000_000
EDGE = 32  # pixels of the result where the network itself sees the image end


@pytest.fixture(scope="module")
def mini() -> OMGSRPipeline:
    return OMGSRPipeline.from_variant(BUNDLED_MODELS / "omgsr-s-mini")


def upscaled(pipe: OMGSRPipeline, folder: Path, data: bytes, **options: object) -> Picture:
    errand = Errand(folder / "in", folder / "out.png")
    errand.source.write_bytes(data)
    upscale_file(pipe, errand, UpscaleOptions(**options), Settings(), lambda _done, _total: None)
    return decode(errand.target.read_bytes(), max_pixels=LIMIT)


def ramps(side: int) -> np.ndarray:
    """[side, side, 3] in 0 … 1: a slow slope in each channel, the same picture at any size."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    return np.dstack([0.3 + 0.2 * x, 0.4 + 0.15 * y, 0.5 + 0.1 * (x + y)])


def deviation(picture: Picture, truth: np.ndarray) -> float:
    """Root of the mean square, in levels of 255, off the edges."""
    levels = picture.rgb.astype(float) * (255 / np.iinfo(picture.rgb.dtype).max)
    return float(np.sqrt(np.mean((levels - truth * 255)[EDGE:-EDGE, EDGE:-EDGE] ** 2)))


def test_sixteen_bits_in_and_out_keep_more_than_eight(mini: OMGSRPipeline, tmp_path: Path) -> None:
    small, truth = ramps(64), ramps(256)
    deep = deep_png(np.rint(small * 65_535).astype(np.uint16))
    flat = file(Image.fromarray(np.rint(small * 255).astype(np.uint8)), "PNG")
    kept = upscaled(mini, tmp_path, deep, depth=16)
    assert kept.depth == 16
    assert all(len(np.unique(kept.rgb[..., channel])) > 256 for channel in range(3))
    shallow = [upscaled(mini, tmp_path, data, depth=depth) for data, depth in [(deep, 8), (flat, 16)]]
    assert [picture.depth for picture in shallow] == [8, 16]
    assert deviation(kept, truth) < 0.75 * min(deviation(picture, truth) for picture in shallow)
    assert deviation(kept, truth) < 0.15


@pytest.mark.parametrize(("depth", "top"), [(8, 255), (16, 65_535)])
def test_the_models_floats_are_rounded_once(depth: int, top: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(2).random((3, 50, 40), np.float32))
    photo = Picture(np.zeros((50, 40, 3), np.uint16))
    made = to_picture(pixels, photo, UpscaleOptions(depth=depth)).rgb
    assert np.abs(made - pixels.permute(1, 2, 0).numpy().astype(float) * top).max() <= 0.5 + top * 2**-24


def test_a_disc_keeps_its_colour_to_its_edge(mini: OMGSRPipeline, tmp_path: Path) -> None:
    side, colour = 64, np.array([200, 80, 40], np.uint8)
    y, x = np.mgrid[:side, :side] + 0.5
    alpha = np.clip(20.5 - np.hypot(x - side / 2, y - side / 2), 0, 1)
    rgb = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    rgb[:, side // 2 :] = 255 - colour
    rgb[alpha > 0] = colour
    made = upscaled(
        mini, tmp_path, file(Image.fromarray(np.dstack([rgb, np.rint(alpha * 255).astype(np.uint8)])), "PNG")
    )
    y, x = np.mgrid[: 4 * side, : 4 * side] + 0.5
    radius = np.hypot(x - 2 * side, y - 2 * side)
    assert (made.alpha[radius < 72] >= 254).all()
    assert (made.alpha[radius > 92] == 0).all()
    assert np.abs(made.rgb[made.alpha > 0].astype(int) - colour).max() <= 2


def test_a_flat_matte_is_kept_within_a_level(tiny_models: Path, tmp_path: Path) -> None:
    pipe = OMGSRPipeline.from_variant(tiny_models / "tiny-s")
    photo = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    for level in (77, 255):
        matte = np.full((40, 56), level, np.uint8)
        made = upscaled(pipe, tmp_path, file(Image.fromarray(np.dstack([photo, matte])), "PNG"), scale=3)
        assert made.alpha.shape == (120, 168)
        assert np.abs(made.alpha.astype(int) - level).max() <= 1
    made = upscaled(pipe, tmp_path, deep_png(np.full((40, 56, 4), 30_000, np.uint16)), scale=1.5, depth=16)
    assert made.alpha.shape == (60, 84)
    assert np.abs(made.alpha.astype(int) - 30_000).max() <= 257


def test_a_flat_field_shows_no_step_where_tiles_meet(mini: OMGSRPipeline, tmp_path: Path) -> None:
    field = Image.new("RGB", (170, 140), (200, 80, 40))
    assert tile_count(field.size, 4, mini.geometry) == 4
    made = upscaled(mini, tmp_path, file(field, "PNG"), depth=16)
    inner = made.rgb[EDGE:-EDGE, EDGE:-EDGE].astype(int)  # tiles end at 48 … 512 of 560 × 680
    for axis in (0, 1):
        assert np.abs(np.diff(inner, axis=axis)).max() < 257


@pytest.mark.parametrize("metadata", ["keep", "strip"])
def test_depth_and_metadata_through_the_service(service: Service, metadata: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    y, x = np.mgrid[:64, :96]
    grey = (x * 300 + y * 200).astype(np.uint16)
    data = file(Image.fromarray(grey), "PNG", exif=exif, icc_profile=SRGB)
    answer = httpx.post(
        f"{service.url}/v1/upscale",
        params={"model": "tiny-s", "scale": 2, "depth": 16, "metadata": metadata, "color_fix": "wavelet"},
        content=data,
        headers={"content-type": "image/png"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    made = decode(answer.content, max_pixels=LIMIT)
    assert (made.depth, made.width, made.height) == (16, 192, 128)
    assert len(np.unique(made.rgb)) > 256
    assert made.icc == SRGB
    assert Image.open(BytesIO(answer.content)).getexif().get(0x010F) == ("A camera" if metadata == "keep" else None)
