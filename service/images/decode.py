"""Bytes → pixels: a file is judged by its header, decoded to its end, and turned upright."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from service.errors import NotAnImage, ServiceError, TooManyPixels, Truncated
from service.images.colours import as_rgb, refuse_wide_samples
from service.images.jpeg import refuse_many_scans
from service.images.metadata import exif_of, orientation_of
from service.images.picture import Picture
from service.images.upright import upright

ACCEPTED = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP")

_SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"ftypavi", b"GIF8", b"II*\0", b"MM\0*")

# Pillow warns about files that are odd; here a file is either decoded or refused by an exception. A filter set once is
# safe with threads, where `catch_warnings` around each call is not.
warnings.filterwarnings("ignore", module=r"PIL\..*")


def inspect(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Width and height, upright, of a file that `decode` will accept; the file is decoded to its end to know."""
    with _opened(data, max_pixels) as image:
        refuse_wide_samples(image)
        return (image.height, image.width) if orientation_of(image) >= 5 else image.size


def decode(data: bytes, *, max_pixels: int) -> Picture:
    """The file's (first) image. Raises NotAnImage, Truncated or TooManyPixels."""
    with _opened(data, max_pixels) as image:
        orientation, exif = orientation_of(image), exif_of(image)
        stored, icc = as_rgb(image, data)
    pixels = upright(stored, orientation)
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return Picture(np.ascontiguousarray(pixels[..., :3]), alpha, icc, exif)


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """A loaded image within limits. Whatever Pillow raises inside, the client gets an error of ours.

    Its parsers raise nearly anything on hostile bytes (struct, zlib, Index, Type, Overflow, Syntax, Memory …).
    """
    try:
        with Image.open(BytesIO(data), formats=ACCEPTED) as image:
            _refuse_too_many(image.width, image.height, max_pixels)
            if image.format in ("JPEG", "MPO"):  # of a TIFF's JPEG strips libtiff itself takes 100 scans at most
                refuse_many_scans(data)
            image.load()
            yield image
    except ServiceError:
        raise
    except UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES, 4 if data[4:8] == b"ftyp" else 0):
            raise Truncated("The file begins as an image, but its header is cut short or damaged.") from error
        raise NotAnImage(
            f"The {len(data):,} bytes received do not begin as an image of any accepted format."
        ) from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"The image has far more pixels than the {max_pixels:,} that this server takes.") from error
    except Exception as error:
        raise Truncated("The file begins as an image, but it is cut short or damaged.") from error


def _refuse_too_many(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(f"The image is {width}×{height} pixels; this server takes at most {max_pixels:,} in all.")
