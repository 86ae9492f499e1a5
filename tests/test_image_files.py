"""Files of every kind are taken or refused, and what they carry beside the colours is kept: real encoded files in."""

import threading
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import ExifTags, Image

from service.errors import BadOption, NotAnImage, TooManyPixels, Truncated
from service.images import MIME_TYPES, Picture, decode, encode, inspect
from tests import hostile
from tests.pictures import ALPHA, CORNERS, SRGB, close, file, png

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

LIMIT = 1_000_000


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
