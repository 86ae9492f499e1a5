"""EXIF of the photo, kept byte for byte but for what would no longer be true."""

import struct

from PIL import ExifTags, Image

PREFIX = b"Exif\0\0"
"""What stands before the block in a JPEG; Pillow wants it for every format."""

_SHAPES = {b"II*\0": "<", b"MM\0*": ">"}
_ENTRY = 12
_LONG = 4

_DESCRIPTIVE_TAGS = {
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright),
    *(ExifTags.Base.Rating, ExifTags.Base.RatingPercent),
    *(ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor),
    *(ExifTags.Base.XPKeywords, ExifTags.Base.XPSubject),
    *(ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
}
"""Of a TIFF's directory only these are about the photo; the others describe how that file stores it."""


def orientation_of(image: Image.Image) -> int:
    """1 … 8, as EXIF counts: 1 is upright."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  damaged EXIF is no reason to refuse a photo
        return 1
    return orientation if orientation in range(1, 9) else 1


def exif_of(image: Image.Image) -> bytes | None:
    """The block without orientation and thumbnail. A damaged one is left out."""
    try:
        raw = image.info.get("exif")
        if raw and image.format != "TIFF":
            return _without_orientation(raw)
        exif = image.getexif()  # a TIFF's own directory, or one that a PNG holds as text
        exif.pop(ExifTags.Base.Orientation, None)
        if image.format == "TIFF":
            for tag in set(exif) - _DESCRIPTIVE_TAGS:
                del exif[tag]
            exif.bigtiff = False
        return exif.tobytes() if len(exif) else None
    except Exception:  # noqa: BLE001  any parser error
        return None


def for_size(exif: bytes, width: int, height: int) -> bytes:
    """The block with its own records of the image's size, where it has some, made true again."""
    block = bytearray(exif.removeprefix(PREFIX))
    try:
        order, first = _start(block)
        main = _entries(block, order, first)
        true = [(main, ExifTags.Base.ImageWidth, width), (main, ExifTags.Base.ImageLength, height)]
        if ExifTags.IFD.Exif in main:
            (at,) = struct.unpack_from(f"{order}I", block, main[ExifTags.IFD.Exif] + 8)
            details = _entries(block, order, at)
            true += [(details, ExifTags.Base.ExifImageWidth, width), (details, ExifTags.Base.ExifImageHeight, height)]
        for entries, tag, value in true:
            if tag in entries:
                struct.pack_into(f"{order}HHII", block, entries[tag], tag, _LONG, 1, value)
    except (struct.error, KeyError):  # an odd block is no reason to lose the finished photo
        return b""
    return PREFIX + block


def _without_orientation(exif: bytes) -> bytes | None:
    """Entries behind it move up in their directory; all else stays in place, so offsets of makers' notes hold."""
    block = bytearray(exif.removeprefix(PREFIX))
    order, first = _start(block)
    entries = _entries(block, order, first)
    (count,) = struct.unpack_from(f"{order}H", block, first)
    end = first + 2 + _ENTRY * count
    if ExifTags.Base.Orientation in entries:
        at = entries[ExifTags.Base.Orientation]
        block[at : end - _ENTRY] = block[at + _ENTRY : end]
        count, end = count - 1, end - _ENTRY
        struct.pack_into(f"{order}H", block, first, count)
    if end + 4 <= len(block):  # the next directory describes a thumbnail of the photo as it was
        struct.pack_into(f"{order}I", block, end, 0)
    return PREFIX + block if count else None


def _start(block: bytearray) -> tuple[str, int]:
    """Byte order and the first directory's offset."""
    order = _SHAPES[bytes(block[:4])]
    return order, struct.unpack_from(f"{order}I", block, 4)[0]


def _entries(block: bytearray, order: str, at: int) -> dict[int, int]:
    """Offsets of a directory's entries by tag."""
    (count,) = struct.unpack_from(f"{order}H", block, at)
    places = range(at + 2, at + 2 + _ENTRY * count, _ENTRY)
    return {struct.unpack_from(f"{order}HHII", block, place)[0]: place for place in places}
