"""Photos of every kind come out right: real encoded files in, pixels and metadata checked."""

import struct
import threading
import zlib
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from service.errors import BadOption, NotAnImage, TooManyPixels, Truncated
from service.images import MIME_TYPES, Picture, decode, encode, inspect
from tests import hostile

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

LIMIT = 1_000_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# Four flat corners, large enough to survive JPEG's chroma blocks: red, green / blue, yellow.
CORNERS = np.zeros((32, 48, 3), np.uint8)
CORNERS[:16, :24], CORNERS[:16, 24:] = (200, 30, 30), (30, 160, 30)
CORNERS[16:, :24], CORNERS[16:, 24:] = (30, 30, 200), (200, 200, 30)


def file(image: Image.Image, kind: str, **options) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def close(got: np.ndarray, wanted: np.ndarray, within: int) -> bool:
    return got.shape == wanted.shape and int(np.abs(got.astype(int) - wanted.astype(int)).max()) <= within


@pytest.mark.parametrize(
    ("kind", "options", "within"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 6),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 12),
        ("GIF", {}, 0),
    ],
)
def test_every_accepted_format(kind, options, within):
    data = file(Image.fromarray(CORNERS), kind, **options)
    picture = decode(data, max_pixels=LIMIT)
    assert close(picture.rgb, CORNERS, within)
    assert picture.alpha is None
    assert inspect(data, max_pixels=LIMIT) == (48, 32)


STORED_AS = {  # how an upright image is laid down for each orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_reset(orientation, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "A. Photographer"
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](CORNERS)))
    data = file(stored, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    if kind == "WEBP":
        data = file(stored, kind, exif=exif, lossless=True)

    assert inspect(data, max_pixels=LIMIT) == (48, 32)
    picture = decode(data, max_pixels=LIMIT)
    # the middle of each corner, far from JPEG's edges
    assert close(picture.rgb[8::16, 12::24], CORNERS[8::16, 12::24], 6)
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept[ExifTags.Base.Artist] == "A. Photographer"
    assert kept.get(ExifTags.Base.Orientation, 1) == 1


def test_exif_survives_but_for_the_size():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExposureTime] = 0.01
    details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = 48, 32
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    picture = decode(file(Image.fromarray(CORNERS), "JPEG", exif=exif), max_pixels=LIMIT)
    for kind in MIME_TYPES:
        data, _ = encode(picture.with_rgb(np.zeros((64, 96, 3), np.uint8)), kind, 90)
        kept = Image.open(BytesIO(data)).getexif()
        assert kept[ExifTags.Base.Make] == "Maker"
        details = kept.get_ifd(ExifTags.IFD.Exif)
        assert float(details[ExifTags.Base.ExposureTime]) == 0.01
        assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (96, 64)
        assert kept.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


def test_damaged_exif_is_left_out_and_the_photo_taken():
    data = file(Image.fromarray(CORNERS), "JPEG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff" + b"\xee" * 40)
    assert decode(data, max_pixels=LIMIT).rgb.shape == CORNERS.shape


def test_a_tiffs_own_layout_does_not_leak_into_exif():
    data = file(Image.fromarray(CORNERS), "TIFF", description="a photo")
    exif = Image.Exif()
    exif.load(decode(data, max_pixels=LIMIT).exif)
    assert dict(exif) == {ExifTags.Base.ImageDescription: "a photo"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_icc_profile_is_kept_byte_for_byte(kind):
    picture = decode(file(Image.fromarray(CORNERS), kind, icc_profile=SRGB), max_pixels=LIMIT)
    assert picture.icc == SRGB
    for target in MIME_TYPES:
        assert Image.open(BytesIO(encode(picture, target, 90)[0])).info["icc_profile"] == SRGB


def test_unreadable_icc_profile_is_left_out():
    picture = decode(file(Image.fromarray(CORNERS), "PNG", icc_profile=b"no profile" * 20), max_pixels=LIMIT)
    assert picture.icc is None
    assert close(picture.rgb, CORNERS, 0)


ALPHA = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})])
def test_alpha(kind, options):
    picture = decode(file(Image.fromarray(np.dstack([CORNERS, ALPHA])), kind, **options), max_pixels=LIMIT)
    assert close(picture.alpha, ALPHA, 0)
    assert close(picture.rgb, CORNERS, 0)


def test_alpha_follows_the_new_size_and_stays_in_range():
    hard = np.zeros((32, 48), np.uint8)
    hard[:, 24:] = 255
    larger = Picture(CORNERS, hard).with_rgb(np.zeros((128, 192, 3), np.uint8))
    assert larger.alpha.shape == (128, 192)
    assert (larger.alpha[:, :80] == 0).all()
    assert (larger.alpha[:, 112:] == 255).all()
    assert all((a <= b + 12).all() for a, b in pairwise(larger.alpha.T.astype(int)))  # no ringing to speak of


@pytest.mark.parametrize("target", ["png", "webp"])
def test_alpha_is_written(target):
    data, mime = encode(Picture(CORNERS, ALPHA), target, 100)
    assert mime == f"image/{target}"
    assert close(np.asarray(Image.open(BytesIO(data)).convert("RGBA"))[..., 3], ALPHA, 1)


def test_jpeg_lays_alpha_on_white():
    data, _ = encode(Picture(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)), "jpeg", 95)
    assert np.asarray(Image.open(BytesIO(data))).min() == 255


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


DEEP = np.tile(np.linspace(0, 65535, 48).astype(np.uint16), (32, 1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    picture = decode(file(Image.fromarray(DEEP), kind), max_pixels=LIMIT)
    assert close(picture.rgb, np.dstack([np.round(DEEP / 257)] * 3), 0)


def test_sixteen_bit_grey_tiff_where_white_is_zero():
    data = file(Image.fromarray(DEEP), "TIFF", tiffinfo={262: 0})
    assert close(decode(data, max_pixels=LIMIT).rgb[..., 0], 255 - np.round(DEEP / 257), 1)


def png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand, for what Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", extra) if extra else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bit_colour_png():
    deep = (CORNERS.astype(">u2") * 257).reshape(32, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    assert close(decode(png(48, 32, 16, 2, rows), max_pixels=LIMIT).rgb, CORNERS, 0)
    key = struct.pack(">HHH", 200 * 257, 30 * 257, 30 * 257)
    picture = decode(png(48, 32, 16, 2, rows, key), max_pixels=LIMIT)
    assert (picture.alpha[:16, :24] == 0).all()
    assert (picture.alpha[16:] == 255).all()


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(CORNERS), Image.fromarray(CORNERS[::-1].copy())]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = file(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
        assert close(decode(data, max_pixels=LIMIT).rgb, CORNERS, 0)


def test_too_many_pixels_are_refused_from_the_header():
    with pytest.raises(TooManyPixels, match="48×32"):
        decode(file(Image.fromarray(CORNERS), "PNG"), max_pixels=1000)
    for side in (20_000, 60_000):  # below and above Pillow's own limit; there are no such pixels in the file
        with pytest.raises(TooManyPixels):
            decode(png(side, side, 8, 2, b"\0"), max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
def test_cut_files_are_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = file(Image.fromarray(noise), kind)
    for check in (inspect, decode):
        with pytest.raises(Truncated):
            check(data[: len(data) * 3 // 4], max_pixels=LIMIT)
        with pytest.raises(NotAnImage):
            check(data[:2], max_pixels=LIMIT)


def test_a_jpeg_of_many_scans_is_refused_whatever_hides_them():
    sound = hostile.many_scans(20, side=64)
    assert inspect(sound, max_pixels=LIMIT) == (64, 64)
    bomb = hostile.many_scans(100, side=64)
    first = bomb.index(b"\xff\xda")
    comment = b"\xff\xfe\0\x06\xff\xd9\xff\xd9"  # an end that is none
    for data in (bomb, bomb[:first] + comment + bomb[first:], bomb.replace(b"\xff\xda", b"\xff\xff\xff\xda")):
        with pytest.raises(Truncated, match="64 scans"):
            inspect(data, max_pixels=LIMIT)


def test_a_motion_photos_film_is_not_counted():
    film = b"ftypmp42" + 1000 * b"\xff\xda\0\x08 a film"
    for options in ({}, {"progressive": True}):
        photo = file(Image.fromarray(CORNERS), "JPEG", **options)
        assert inspect(photo + film, max_pixels=LIMIT) == (48, 32)


def test_what_is_no_image_is_refused():
    for data in (
        b"",
        b"hello",
        b"%PDF-1.7 ...",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0",
    ):
        with pytest.raises(NotAnImage):
            decode(data, max_pixels=LIMIT)
    with pytest.raises(NotAnImage, match="32-bit"):
        inspect(file(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), max_pixels=LIMIT)


def test_a_result_that_its_format_cannot_hold_is_refused():
    with pytest.raises(BadOption, match="16383"):
        encode(Picture(np.zeros((1, 16_384, 3), np.uint8)), "webp", 80)


def test_many_threads_decode_at_once():
    data = file(Image.fromarray(CORNERS), "PNG")
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(decode(data, max_pixels=LIMIT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
