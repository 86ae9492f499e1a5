"""Pixels → bytes: a picture as a file of the format asked for, with what it carries."""

from io import BytesIO

import numpy as np
from PIL import Image

from service.errors import BadOption
from service.images.metadata import PREFIX, for_size
from service.images.picture import Picture, Pixels
from service.images.png import write_png
from service.job import OutputFormat

MIME_TYPES: dict[OutputFormat, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "avif": "image/avif",
}
LONGEST_SIDE: dict[OutputFormat, int] = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383, "avif": 65_535}
"""What the formats themselves can hold, in pixels."""

MAX_JPEG_EXIF_BYTES = 65_533


def encode(picture: Picture, file_format: OutputFormat, quality: int) -> tuple[bytes, str]:
    """The file's bytes and MIME type. JPEG has no alpha: there the picture is laid on white.

    A picture of 16 bits keeps them in PNG; in the other formats it is rounded to 8.
    """
    check_side(file_format, picture.width, picture.height)
    exif = for_size(picture.exif, picture.width, picture.height) if picture.exif else b""
    if file_format == "png" and picture.rgb.dtype == np.uint16:
        return write_png(_with_alpha(picture), picture.icc, exif.removeprefix(PREFIX)), MIME_TYPES[file_format]
    picture = picture.in_eight_bits()
    pixels = _on_white(picture) if file_format == "jpeg" else _with_alpha(picture)
    if file_format == "jpeg" and len(exif) > MAX_JPEG_EXIF_BYTES:
        exif = b""
    out = BytesIO()
    options = _options(file_format, quality)
    Image.fromarray(pixels).save(out, file_format.upper(), icc_profile=picture.icc, exif=exif, **options)
    return out.getvalue(), MIME_TYPES[file_format]


def check_side(file_format: OutputFormat, width: int, height: int) -> None:
    """Refuse a result that its file format cannot hold."""
    if max(width, height) > LONGEST_SIDE[file_format]:
        raise BadOption(
            f"The result would be {width}×{height} pixels; {file_format} holds {LONGEST_SIDE[file_format]} on a side.",
            "Ask for format=png, or for a smaller scale.",
        )


def _options(file_format: OutputFormat, quality: int) -> dict[str, int | str]:
    chroma = "4:4:4" if quality >= 90 else "4:2:0"
    match file_format:
        case "png":
            return {"compress_level": 4}  # photos hardly shrink beyond it, only slower
        case "jpeg":
            return {"quality": quality, "subsampling": chroma}
        case "avif":
            return {"quality": quality, "subsampling": chroma, "speed": 8}
        case "webp":
            return {"quality": quality, "method": 4}


def _with_alpha(picture: Picture) -> Pixels:
    return picture.rgb if picture.alpha is None else np.dstack([picture.rgb, picture.alpha])


def _on_white(picture: Picture) -> Pixels:
    if picture.alpha is None:
        return picture.rgb
    white = Image.new("RGB", (picture.width, picture.height), "white")
    return np.asarray(Image.composite(Image.fromarray(picture.rgb), white, Image.fromarray(picture.alpha)))
