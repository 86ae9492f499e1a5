"""All 16 bits of a sample, where Pillow alone would give 8: colour of PNG and TIFF, and grey with alpha.

Its decoders do the work here too, on the file that they have decoded once already, so every limit holds.
"""

import struct
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from service.images.metadata import orientation_of
from service.images.upright import upright

Samples = NDArray[np.uint16]

_TAG = ExifTags.Base
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTE_COUNTS = 322, 323, 324, 325
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTE_COUNTS = 273, 278, 279
_PREDICTOR = 317
_EXTRA_SAMPLES = 338
_WITH_PREDICTOR = (5, 8, 32_946, 34_925, 50_000)
"""Compressions (LZW, deflate, LZMA, Zstandard) of which a file may say that each sample is stored as a difference."""
_RGB, _SEPARATE, _PREMULTIPLIED = 2, 2, (1,)


def deep_samples(image: Image.Image, data: bytes) -> Samples | None:
    """[H, W, 1 … 4] (grey, grey and alpha, RGB, RGBA) of a loaded image whose samples have more than 8 bits.

    As they are stored, orientation not applied, but for TIFF: there they are upright. None where 8 bits are all.
    """
    if image.mode.startswith("I;16"):
        return _grey(image)[..., None]
    if image.format == "PNG" and data[24] == 16:
        return _of_png(image, data)
    if isinstance(image, TiffImageFile) and image.mode in ("RGB", "RGBA"):
        tags = image.tag_v2
        if set(tags.get(_TAG.BitsPerSample, ())) == {16} and tags.get(_TAG.PhotometricInterpretation) == _RGB:
            return _of_tiff(data, 4 if image.mode == "RGBA" else 3)
    return None


def _grey(image: Image.Image) -> Samples:
    """16-bit (or 12-bit) grey over the full range."""
    tags = getattr(image, "tag_v2", {})
    top = 2 ** tags.get(_TAG.BitsPerSample, (16,))[0] - 1
    levels = np.asarray(image).astype(np.uint16)
    if top < 65_535:
        levels = ((np.minimum(levels, top).astype(np.uint32) * 65_535 + top // 2) // top).astype(np.uint16)
    return 65_535 - levels if tags.get(_TAG.PhotometricInterpretation) == 0 else levels  # white is zero


def _of_png(image: Image.Image, data: bytes) -> Samples | None:
    """PNG's samples begin with their high byte, which `image` has; unpacked the other way round come the low ones."""
    with PngImageFile(BytesIO(data)) as again:
        kind = str(again.tile[0].args)
        if kind not in ("RGB;16B", "RGBA;16B", "LA;16B"):
            return None
        # Grey and alpha of 16 bits are as many bytes as RGBA of 8: these come whole.
        again.tile = [
            tile._replace(args="RGBA" if kind == "LA;16B" else kind.replace("16B", "16L")) for tile in again.tile
        ]
        again.load()
        low = np.asarray(again)
    if kind == "LA;16B":
        whole: Samples = low.view(">u2").astype(np.uint16)
        return whole
    both: Samples = (np.asarray(image).astype(np.uint16) << 8) | low
    return both


def _of_tiff(data: bytes, channels: int) -> Samples:
    """Pixels of n samples are read as n pixels of grey: by a second directory at the end of the same file."""
    with TiffImageFile(BytesIO(data)) as image:
        tags, orientation = image.tag_v2, orientation_of(image)
    width, height, stored = tags[_TAG.ImageWidth], tags[_TAG.ImageLength], tags[_TAG.SamplesPerPixel]
    if tags.get(_TAG.PlanarConfiguration) == _SEPARATE:
        samples = np.dstack([_read_as_grey(data, _plane(tags, plane, stored)) for plane in range(channels)])
    else:
        samples = _read_as_grey(data, _widened(tags, stored)).reshape(height, width, stored)
        if tags.get(_PREDICTOR) == 2 and tags.get(_TAG.Compression) in _WITH_PREDICTOR:
            tile = tags.get(_TILE_WIDTH, width)
            for left in range(0, width, tile):
                part = samples[:, left : left + tile]
                np.cumsum(part, axis=1, dtype=np.uint16, out=part)
        samples = samples[..., :channels]
    if channels == 4 and tags.get(_EXTRA_SAMPLES) == _PREMULTIPLIED:
        samples = _divided_by_alpha(samples)
    return upright(samples, orientation)


def _widened(tags: ImageFileDirectory_v2, samples: int) -> dict[int, tuple[int, ...]]:
    """Every row `samples` times as long; differences between samples are left for the caller to sum up."""
    grey = _as_grey(tags) | {_TAG.ImageWidth: (tags[_TAG.ImageWidth] * samples,)}
    if _TILE_WIDTH in tags:
        grey[_TILE_WIDTH] = (tags[_TILE_WIDTH] * samples,)
    return grey


def _plane(tags: ImageFileDirectory_v2, plane: int, samples: int) -> dict[int, tuple[int, ...]]:
    """One of the planes that the samples are stored in, each with a share of the strips or tiles."""
    grey = _as_grey(tags)
    for tag in (_STRIP_OFFSETS, _STRIP_BYTE_COUNTS, _TILE_OFFSETS, _TILE_BYTE_COUNTS):
        if tag in grey:
            share = len(grey[tag]) // samples
            grey[tag] = grey[tag][plane * share : (plane + 1) * share]
    return grey | {_PREDICTOR: (tags.get(_PREDICTOR, 1),)}


def _as_grey(tags: ImageFileDirectory_v2) -> dict[int, tuple[int, ...]]:
    single = (_TAG.ImageWidth, _TAG.ImageLength, _TAG.Compression, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH)
    several = (_STRIP_OFFSETS, _STRIP_BYTE_COUNTS, _TILE_OFFSETS, _TILE_BYTE_COUNTS)
    grey: dict[int, tuple[int, ...]] = {int(tag): (tags[tag],) for tag in single if tag in tags}
    grey |= {tag: tuple(tags[tag]) for tag in several if tag in tags}
    return grey | {_TAG.BitsPerSample: (16,), _TAG.PhotometricInterpretation: (1,), _TAG.SamplesPerPixel: (1,)}


def _read_as_grey(data: bytes, directory: dict[int, tuple[int, ...]]) -> Samples:
    order, mark = ("<", b"II*\0") if data.startswith(b"II") else (">", b"MM\0*")
    at = len(data) + len(data) % 2
    entries, values, values_at = b"", b"", at + 2 + 12 * len(directory) + 4
    for tag, numbers in sorted(directory.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            values, packed = values + packed, struct.pack(f"{order}I", values_at + len(values))
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    head, count = mark + struct.pack(f"{order}I", at), struct.pack(f"{order}H", len(directory))
    file = BytesIO(b"".join([head, data[8:], bytes(at - len(data)), count, entries, bytes(4), values]))
    with TiffImageFile(file) as grey:
        grey.load()
        return np.asarray(grey).astype(np.uint16)


def _divided_by_alpha(samples: Samples) -> Samples:
    alpha = samples[..., 3:].astype(np.float32)
    colours = samples[..., :3] * (65_535 / np.maximum(alpha, 1))
    return np.dstack([np.rint(colours.clip(0, 65_535)).astype(np.uint16), samples[..., 3]])
