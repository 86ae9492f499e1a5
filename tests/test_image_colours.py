"""Colours of every kind come out as RGB: palettes, grey, inks, Lab, 16 bits; real encoded files in, pixels checked."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.images import decode
from tests.pictures import ALPHA, CORNERS, SRGB, close, file

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

LIMIT = 1_000_000


def test_palette_with_and_without_transparency():
    palette = Image.fromarray(CORNERS).quantize(8)
    assert close(decode(file(palette, "PNG"), max_pixels=LIMIT).rgb, CORNERS, 0)
    blue = palette.getpixel((0, 31))
    for kind in ("PNG", "GIF"):
        picture = decode(file(palette, kind, transparency=blue), max_pixels=LIMIT)
        assert (picture.alpha[16:, :24] == 0).all()
        assert (picture.alpha[:16] == 255).all()
        assert close(picture.rgb[:16], CORNERS[:16], 0)
    levels = bytes(min(255, 40 * i) for i in range(8))
    picture = decode(file(palette, "PNG", transparency=levels), max_pixels=LIMIT)
    assert picture.alpha[31, 0] == levels[blue]


def test_a_png_colour_declared_transparent():
    picture = decode(file(Image.fromarray(CORNERS), "PNG", transparency=(200, 30, 30)), max_pixels=LIMIT)
    assert (picture.alpha[:16, :24] == 0).all()
    assert (picture.alpha[16:] == 255).all()


GREY = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))


def test_greyscale_with_and_without_alpha_and_one_bit():
    picture = decode(file(Image.fromarray(GREY), "PNG"), max_pixels=LIMIT)
    assert close(picture.rgb, np.dstack([GREY] * 3), 0)
    picture = decode(file(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG"), max_pixels=LIMIT)
    assert close(picture.rgb, np.dstack([GREY] * 3), 0)
    assert close(picture.alpha, ALPHA, 0)
    for kind in ("PNG", "TIFF", "BMP"):
        picture = decode(file(Image.fromarray(GREY > 127), kind), max_pixels=LIMIT)
        assert close(picture.rgb[..., 0], np.where(GREY > 127, 255, 0), 0)


def test_cmyk_jpeg_with_and_without_adobes_mark():
    inks = Image.fromarray(CORNERS).convert("CMYK")
    data = file(inks, "JPEG", quality=95)
    assert b"Adobe" in data
    assert close(decode(data, max_pixels=LIMIT).rgb[8::16, 12::24], CORNERS[8::16, 12::24], 6)

    at = data.index(b"\xff\xee")  # Adobe's marker: cut it out; such a file holds its inks as they are
    length = struct.unpack(">H", data[at + 2 : at + 4])[0]
    inverted = file(Image.eval(inks, lambda ink: 255 - ink), "JPEG", quality=95)
    plain = inverted[:at] + inverted[at + 2 + length :]
    assert close(decode(plain, max_pixels=LIMIT).rgb[8::16, 12::24], CORNERS[8::16, 12::24], 6)


def test_cmyk_tiff():
    picture = decode(file(Image.fromarray(CORNERS).convert("CMYK"), "TIFF"), max_pixels=LIMIT)
    assert close(picture.rgb, CORNERS, 1)


def odd_press() -> bytes:
    """A CMYK profile, made by hand, of a press whose cyan ink is orange: only through it do the colours come out."""
    paper, orange, black = bytes((255, 128, 128)), bytes((178, 165, 200)), bytes((0, 128, 128))  # L, a, b in 8 bits
    table = paper + black * 7 + orange + black * 7  # cyan varies slowest
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    curve = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + curve * 4 + table + curve * 3
    lut += bytes(-len(lut) % 4)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    text = b"text\0\0\0\0odd\0"
    offset, tags, body = 128 + 4 + 12 * 3, b"", b""
    for name, data in ((b"A2B0", lut), (b"wtpt", white), (b"cprt", text)):
        tags += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s12x4s4x", size, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    head += bytes(68 - len(head)) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", 3) + tags + body


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("JPEG", {"quality": 95})])
def test_cmyk_goes_through_its_profile(kind, options):
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[:, 16:, 0] = 255
    data = file(Image.fromarray(inks, "CMYK"), kind, icc_profile=odd_press(), **options)
    picture = decode(data, max_pixels=LIMIT)
    assert picture.icc is None
    assert (picture.rgb[8:24, 4:12] > 245).all()
    red, green, blue = picture.rgb[16, 24].astype(int)
    assert red > 200
    assert red > green + 60 > blue + 60


def test_an_rgb_profile_in_a_cmyk_file_is_not_carried_over():
    picture = decode(file(Image.fromarray(CORNERS).convert("CMYK"), "TIFF", icc_profile=SRGB), max_pixels=LIMIT)
    assert picture.icc is None


def test_lab_tiff():
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    picture = decode(file(ImageCms.applyTransform(Image.fromarray(CORNERS), to_lab), "TIFF"), max_pixels=LIMIT)
    assert close(picture.rgb, CORNERS, 14)  # 8-bit Lab is coarse in saturated blue
    assert picture.icc is None


def test_ycbcr_tiff():
    data = file(Image.fromarray(CORNERS).convert("YCbCr"), "TIFF", compression="jpeg", quality=95)
    assert close(decode(data, max_pixels=LIMIT).rgb[8::16, 12::24], CORNERS[8::16, 12::24], 8)
