"""Photos of every kind, through API, queue and worker and back: upright, in their colours, with what they carried.

The tiny models paint random detail; the wavelet colour fix keeps the photo's low frequencies, so the mean colour of
each quarter tells whether the right photo came out the right way up.
"""

from collections.abc import Callable
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.running import Service

QUARTERS = {
    "top left": (200, 60, 60),
    "top right": (60, 180, 60),
    "bottom left": (60, 60, 200),
    "bottom right": (190,) * 3,
}
WIDTH, HEIGHT = 96, 64


def photo() -> Image.Image:
    """Four flat quarters."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for (place, colour), y, x in zip(QUARTERS.items(), (0, 0, 1, 1), (0, 1, 0, 1), strict=True):
        assert place
        pixels[y * HEIGHT // 2 :, x * WIDTH // 2 :] = colour
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def upscaled(service: Service, data: bytes) -> Image.Image:
    answer = httpx.post(
        f"{service.url}/v1/upscale",
        params={"model": "tiny-s", "color_fix": "wavelet", "scale": 2},
        content=data,
        headers={"content-type": "image/png"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    image = Image.open(BytesIO(answer.content))
    image.load()
    return image


def quarter_means(image: Image.Image) -> list[np.ndarray]:
    """Mean colour of the middle of each quarter, in reading order."""
    pixels = np.asarray(image.convert("RGB")).astype(float)
    height, width = pixels.shape[:2]
    return [
        pixels[y * height // 8 : (y + 2) * height // 8, x * width // 8 : (x + 2) * width // 8].mean((0, 1))
        for y in (1, 5)
        for x in (1, 5)
    ]


def rotated(image: Image.Image) -> bytes:
    """Stored on its side, with the EXIF tag that puts it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "A camera"
    return saved(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def sixteen_bit(image: Image.Image) -> bytes:
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(grey), "PNG")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda image: saved(image, "PNG"), lambda image: image),
        (rotated, lambda image: image),
        (lambda image: saved(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), lambda image: image),
        (lambda image: saved(image.convert("L"), "PNG"), lambda image: image.convert("L")),
        (lambda image: saved(image.convert("CMYK"), "JPEG", quality=95), lambda image: image.convert("CMYK")),
        (sixteen_bit, lambda image: image.convert("L")),
        (lambda image: saved(image, "GIF"), lambda image: image),
        (lambda image: saved(image, "TIFF"), lambda image: image),
    ],
    ids=["png", "exif-rotated", "palette", "grey", "cmyk", "16-bit", "gif", "tiff"],
)
def test_comes_out_right(
    service: Service, make: Callable[[Image.Image], bytes], expected: Callable[[Image.Image], Image.Image]
) -> None:
    image = upscaled(service, make(photo()))
    assert image.size == (2 * WIDTH, 2 * HEIGHT)
    for ours, right in zip(quarter_means(image), quarter_means(expected(photo())), strict=True):
        assert np.abs(ours - right).max() <= 25


@pytest.mark.parametrize("palette", [False, True])
def test_alpha_comes_out_as_it_went_in(service: Service, palette: bool) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, WIDTH // 2 :] = 0
    image = photo()
    if palette:
        image = image.convert("P", palette=Image.Palette.ADAPTIVE)
        clear = image.getpixel((WIDTH - 1, 0))
        right = np.asarray(image) == clear
        result = np.asarray(upscaled(service, saved(image, "PNG", transparency=clear)).getchannel("A"))
        alpha = np.where(right, 0, 255).astype(np.uint8)
    else:
        image.putalpha(Image.fromarray(alpha))
        result = np.asarray(upscaled(service, saved(image, "PNG")).getchannel("A"))
    for y, x in ((HEIGHT // 4, WIDTH // 4), (HEIGHT // 4, 3 * WIDTH // 4), (3 * HEIGHT // 4, WIDTH // 4)):
        assert abs(int(result[2 * y, 2 * x]) - int(alpha[y, x])) <= 2


def test_profile_and_exif_are_kept(service: Service) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 3
    exif[0x010F] = "A camera"
    image = upscaled(service, saved(photo().rotate(180), "JPEG", quality=95, exif=exif, icc_profile=icc))
    assert image.info["icc_profile"] == icc
    assert image.getexif()[0x010F] == "A camera"
    assert image.getexif().get(0x0112, 1) == 1
