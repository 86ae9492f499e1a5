"""What a photo tells beside its pixels comes out as it went in, but for what is no longer true."""

import struct
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from service.images import MIME_TYPES, decode, encode
from tests.pictures import CORNERS, SRGB, file

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

LIMIT = 1_000_000
LARGER = np.zeros((64, 96, 3), np.uint8)
THUMBNAIL = b"\xff\xd8 a thumbnail \xff\xd9"
NOTE = bytes(range(1, 60))


def block(order: str) -> bytes:
    """EXIF as a camera writes it: a maker's note, a place, an interoperability index, a thumbnail; made by hand."""

    def directory(at: int, entries: list[tuple[int, int, int, bytes]], following: int) -> bytes:
        body = b"".join(struct.pack(f"{order}HHI", *head) + value.ljust(4, b"\0") for *head, value in entries)
        return (struct.pack(f"{order}H", len(entries)) + body + struct.pack(f"{order}I", following)).ljust(at, b"\0")

    def short(value: int) -> bytes:
        return struct.pack(f"{order}H", value)

    def long(value: int) -> bytes:
        return struct.pack(f"{order}I", value)

    head = (b"II*\0" if order == "<" else b"MM\0*") + long(8)
    main = [
        *((0x100, 3, 1, short(48)), (0x101, 4, 1, long(32)), (0x10F, 2, 6, long(500)), (0x112, 3, 1, short(3))),
        *((0x11A, 5, 1, long(510)), (0x8769, 4, 1, long(150)), (0x8825, 4, 1, long(300))),
    ]
    details = [
        *((0x829A, 5, 1, long(520)), (0x927C, 7, len(NOTE), long(540)), (0xA002, 3, 1, short(48))),
        *((0xA003, 4, 1, long(32)), (0xA005, 4, 1, long(360))),
    ]
    place = [(1, 2, 2, b"N\0"), (2, 5, 3, long(620))]
    thumbnail = [(0x112, 3, 1, short(3)), (0x201, 4, 1, long(660)), (0x202, 4, 1, long(len(THUMBNAIL)))]
    made = (head + directory(142, main, 420)).ljust(150, b"\0") + directory(150, details, 0)
    made += directory(60, place, 0) + directory(60, [(1, 2, 4, b"R98\0")], 0) + directory(80, thumbnail, 0)
    made += b"Maker\0".ljust(10, b"\0") + long(72) + long(1) + bytes(2) + long(1) + long(50)
    made = made.ljust(540, b"\0") + NOTE
    made = made.ljust(620, b"\0") + struct.pack(f"{order}6I", 48, 1, 51, 1, 30, 1)
    return made.ljust(660, b"\0") + THUMBNAIL


def facts(exif: Image.Exif) -> dict[str, object]:
    groups = {name: exif.get_ifd(getattr(ExifTags.IFD, name)) for name in ("Exif", "GPSInfo", "Interop", "IFD1")}
    pointers = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
    return {"main": {tag: value for tag, value in exif.items() if tag not in pointers}} | groups


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", MIME_TYPES)
def test_exif_is_equal_but_for_orientation_size_and_thumbnail(order, target):
    data = file(Image.fromarray(CORNERS), "JPEG", exif=b"Exif\0\0" + block(order))
    before = facts(Image.open(BytesIO(data)).getexif())
    assert before["IFD1"]
    assert before["main"].pop(0x112) == 3
    for group, tag, value in [("main", 0x100, 96), ("main", 0x101, 64), ("Exif", 0xA002, 96), ("Exif", 0xA003, 64)]:
        assert before[group][tag] in (48, 32)
        before[group][tag] = value
    before["IFD1"] = {}

    made, _ = encode(decode(data, max_pixels=LIMIT).with_rgb(LARGER), target, 90)
    assert facts(Image.open(BytesIO(made)).getexif()) == before
    assert before["Exif"][0x927C] == NOTE


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_a_makers_note_stays_where_its_offsets_point(kind):
    exif = block("<")
    picture = decode(file(Image.fromarray(CORNERS), kind, exif=b"Exif\0\0" + exif), max_pixels=LIMIT)
    if kind != "AVIF":  # Pillow writes AVIF's anew
        assert picture.exif.removeprefix(b"Exif\0\0").index(NOTE) == exif.index(NOTE)
    assert facts(Image.open(BytesIO(encode(picture, "png", 90)[0])).getexif())["Exif"][0x927C] == NOTE


@pytest.mark.parametrize("depth", [8, 16])
def test_a_side_that_takes_more_than_16_bits_is_told(depth):
    picture = decode(file(Image.fromarray(CORNERS), "JPEG", exif=b"Exif\0\0" + block(">")), max_pixels=LIMIT)
    wide = np.zeros((1, 70_000, 3), np.uint8 if depth == 8 else np.uint16)
    kept = Image.open(BytesIO(encode(picture.with_rgb(wide), "png", 90)[0])).getexif()
    assert kept.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] == 70_000


def test_without_exif_the_profile_stays():
    data = file(Image.fromarray(CORNERS), "JPEG", exif=b"Exif\0\0" + block("<"), icc_profile=SRGB)
    for target in MIME_TYPES:
        image = Image.open(BytesIO(encode(decode(data, max_pixels=LIMIT).without_exif(), target, 90)[0]))
        assert not image.getexif()
        assert image.info["icc_profile"] == SRGB


def test_xmp_of_the_old_file_is_left_behind():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF tiff:ImageWidth="48"/></x:xmpmeta>'
    for kind in ("JPEG", "WEBP"):
        data = file(Image.fromarray(CORNERS), kind, xmp=xmp)
        assert b"xmpmeta" in data
        assert not any(b"xmpmeta" in encode(decode(data, max_pixels=LIMIT), target, 90)[0] for target in MIME_TYPES)


@settings(deadline=None, max_examples=300)
@given(
    flips=st.lists(st.tuples(st.integers(0, 680), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.integers(0, 700),
)
def test_damaged_exif_never_costs_the_photo(flips, length):
    exif = bytearray(block("<"))
    for at, byte in flips:
        exif[min(at, len(exif) - 1)] = byte
    data = file(Image.fromarray(CORNERS), "PNG", exif=b"Exif\0\0" + bytes(exif[:length]))
    picture = decode(data, max_pixels=LIMIT)
    assert sorted(picture.rgb.shape) == [3, 32, 48]
    for target in MIME_TYPES:
        made = Image.open(BytesIO(encode(picture.with_rgb(LARGER), target, 90)[0]))
        made.load()
        assert made.size == (96, 64)
