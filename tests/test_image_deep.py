"""Every bit of a 16-bit file comes in and goes out: real files, written by hand where nothing else writes them."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from service.errors import BadRequest, TooManyPixels
from service.images import Picture, decode, encode, inspect
from tests.pictures import CORNERS, SRGB, close, deep_png, deep_tiff, file, png

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

LIMIT = 1_000_000
NOISE = np.random.default_rng(3).integers(0, 65_536, (37, 53, 4), np.uint16)
GREY = np.tile(np.linspace(0, 65535, 48).astype(np.uint16), (32, 1))


def test_eight_bits_stay_eight():
    assert decode(file(Image.fromarray(CORNERS), "PNG"), max_pixels=LIMIT).depth == 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey(kind):
    for image in (Image.fromarray(GREY), Image.frombytes("I;16B", (48, 32), GREY.astype(">u2").tobytes())):
        picture = decode(file(image, kind), max_pixels=LIMIT)
        assert picture.depth == 16
        assert close(picture.rgb, np.dstack([GREY] * 3), 0)


def test_grey_tiff_where_white_is_zero():
    data = file(Image.fromarray(GREY), "TIFF", tiffinfo={262: 0})
    assert close(decode(data, max_pixels=LIMIT).rgb[..., 0], 65_535 - GREY, 0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_any_colour(channels):
    samples = NOISE[..., :channels]
    data = deep_png(samples)
    picture = decode(data, max_pixels=LIMIT)
    assert inspect(data, max_pixels=LIMIT) == (53, 37)
    assert close(picture.rgb, samples[..., :3] if channels > 2 else samples[..., :1].repeat(3, 2), 0)
    assert picture.alpha is None if channels % 2 else close(picture.alpha, samples[..., -1], 0)


def test_png_in_seven_passes():
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes()
        for y, x, down, across in [
            *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        ]
        for row in NOISE[y::down, x::across, :3]
    )
    body = bytearray(png(53, 37, 16, 2, rows))
    body[28] = 1
    body[29:33] = struct.pack(">I", zlib.crc32(body[12:29]))
    assert close(decode(bytes(body), max_pixels=LIMIT).rgb, NOISE[..., :3], 0)


def test_a_png_colour_declared_transparent_is_matched_in_all_bits():
    samples = NOISE[..., :3].copy()
    samples[0, 0], samples[0, 1] = (1000, 2000, 3000), (1000, 2000, 3001)
    picture = decode(deep_png(samples, struct.pack(">HHH", 1000, 2000, 3000)), max_pixels=LIMIT)
    assert picture.alpha[0, 0] == 0
    assert (picture.alpha.ravel()[1:] == 65_535).all()
    picture = decode(deep_png(samples[..., :1], struct.pack(">H", 1000)), max_pixels=LIMIT)
    assert np.array_equal(picture.alpha == 0, samples[..., 0] == 1000)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("stored", [{}, {"deflate": True}, {"deflate": True, "differences": True}])
def test_tiff_however_it_is_laid_down(order, tile, planar, stored):
    for channels, extra in ((3, None), (4, 2)):
        samples = NOISE[..., :channels]
        data = deep_tiff(samples, order, tile=tile, planar=planar, extra=extra, **stored)
        picture = decode(data, max_pixels=LIMIT)
        assert inspect(data, max_pixels=LIMIT) == (53, 37)
        assert close(picture.rgb, samples[..., :3], 0)
        assert picture.alpha is None if channels == 3 else close(picture.alpha, samples[..., 3], 0)


def test_tiff_whose_fourth_sample_is_nothing_known():
    for planar in (False, True):
        picture = decode(deep_tiff(NOISE, planar=planar, deflate=planar, extra=0), max_pixels=LIMIT)
        assert close(picture.rgb, NOISE[..., :3], 0)
        assert picture.alpha is None


def test_tiff_of_premultiplied_colours():
    alpha = NOISE[..., 3:] // 2 + 32_768
    dimmed = np.rint(NOISE[..., :3] * (alpha / 65_535)).astype(np.uint16)
    picture = decode(deep_tiff(np.dstack([dimmed, alpha]), extra=1), max_pixels=LIMIT)
    assert close(picture.rgb, NOISE[..., :3], 1)
    assert close(picture.alpha, alpha[..., 0], 0)


def test_tiff_on_its_side():
    data = deep_tiff(np.ascontiguousarray(np.rot90(NOISE[..., :3])), orientation=6)
    assert inspect(data, max_pixels=LIMIT) == (53, 37)
    assert close(decode(data, max_pixels=LIMIT).rgb, NOISE[..., :3], 0)


@pytest.mark.parametrize("channels", [3, 4])
def test_png_written_and_read_again(channels):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    picture = Picture(NOISE[..., :3], NOISE[..., 3] if channels == 4 else None, SRGB, exif.tobytes())
    data, mime = encode(picture, "png", 90)
    assert (mime, data[24]) == ("image/png", 16)
    with Image.open(BytesIO(data)) as image:  # every checksum is right, and Pillow sees what we meant
        image.verify()
    again = decode(data, max_pixels=LIMIT)
    assert close(again.rgb, NOISE[..., :3], 0)
    assert again.icc == SRGB
    assert Image.open(BytesIO(data)).getexif()[0x010F] == "Maker"
    assert again.alpha is None if channels == 3 else close(again.alpha, NOISE[..., 3], 0)


@settings(deadline=None, max_examples=50)
@given(width=st.integers(1, 20), height=st.integers(1, 150), channels=st.integers(3, 4), seed=st.integers(0, 99))
def test_png_of_any_size(width, height, channels, seed):
    samples = np.random.default_rng(seed).choice(
        np.array([0, 1, 255, 256, 65_535], np.uint16), (height, width, channels)
    )
    data, _ = encode(Picture(samples[..., :3], samples[..., 3] if channels == 4 else None), "png", 90)
    again = decode(data, max_pixels=LIMIT)
    assert close(again.rgb, samples[..., :3], 0)
    assert channels == 3 or close(again.alpha, samples[..., 3], 0)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_other_formats_take_the_nearest_of_256_levels(kind):
    ramp = np.arange(65_536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, 2)
    eight = Picture(ramp).in_eight_bits()
    assert close(eight.rgb, np.rint(ramp / 257), 0)
    assert encode(Picture(ramp), kind, 90) == encode(eight, kind, 90)


def test_deep_grey_goes_through_its_profile():
    """A gamma of 1: the darker half of its levels takes up three quarters of sRGB's."""
    linear = odd_grey(1.0)
    ramp = np.arange(0, 65_536, 8, dtype=np.uint16).reshape(64, 128, 1)
    picture = decode(with_profile(deep_png(ramp), linear), max_pixels=LIMIT)
    assert picture.icc is None
    y = ramp[..., 0] / 65_535
    right = np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055) * 65_535
    assert np.abs(picture.rgb[..., 1] - right)[8:].max() < 257
    assert len(np.unique(picture.rgb[..., 1])) > 4000


def odd_grey(gamma: float) -> bytes:
    """A grey profile, made by hand."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    offset, tags, body = 128 + 4 + 12 * 2, b"", b""
    for name, data in ((b"kTRC", curve), (b"wtpt", white)):
        tags += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s12x4s4x", offset + len(body), b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp"
    )
    head += bytes(68 - len(head)) + struct.pack(">3i", 63190, 65536, 54061)
    profile = head + bytes(128 - len(head)) + struct.pack(">I", 2) + tags + body
    assert ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space == "GRAY"
    return profile


def with_profile(data: bytes, icc: bytes) -> bytes:
    body = b"iCCP" + b"a\0\0" + zlib.compress(icc)
    return data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


SOUND = [
    *(deep_png(NOISE[:9, :11, :channels]) for channels in (1, 2, 3, 4)),
    *(deep_tiff(NOISE[:9, :11, :3], order, deflate=order == ">", differences=True) for order in "<>"),
    deep_tiff(NOISE[:20, :20], tile=16, planar=True, deflate=True, differences=True, extra=1),
]


@settings(deadline=None, max_examples=600)
@given(
    data=st.sampled_from(SOUND),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_a_damaged_file_is_refused_or_taken_and_never_breaks(data, flips, cut):
    broken = bytearray(data)
    for place, byte in flips:
        at = int(place * len(broken))
        broken[at] = byte
        if data.startswith(b"\x89PNG") and at < 33:  # its checksum, right again: the damage gets further
            broken[29:33] = struct.pack(">I", zlib.crc32(broken[12:29]))
    broken = broken[: int(cut * len(broken))]
    try:
        picture = decode(bytes(broken), max_pixels=LIMIT)
    except BadRequest:
        return
    assert picture.rgb.dtype in (np.uint8, np.uint16)
    assert picture.width * picture.height <= LIMIT
    assert picture.alpha is None or picture.alpha.shape == picture.rgb.shape[:2]


def test_limits_are_judged_from_the_header():
    for side in (20_000, 60_000):
        with pytest.raises(TooManyPixels):
            decode(png(side, side, 16, 2, b"\0"), max_pixels=LIMIT)
    bomb = png(100, 100, 16, 2, bytes(60_000_000))  # far more rows than the header has
    assert decode(bomb, max_pixels=LIMIT).rgb.shape == (100, 100, 3)
