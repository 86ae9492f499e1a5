"""A PNG of 16 bits per sample: Pillow writes such files of grey alone."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPE = {3: 2, 4: 6}
_AVERAGE = 3
_BAND = 64
"""Rows that are filtered at a time: the memory stays small beside the picture's."""


def write_png(samples: NDArray[np.uint8 | np.uint16], icc: bytes | None, exif: bytes) -> bytes:
    """The file of `samples` [H, W, 3 or 4], with a profile and a bare EXIF block where there are any."""
    height, width, channels = samples.shape
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPE[channels], 0, 0, 0))]
    if icc:
        chunks.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if exif:
        chunks.append(_chunk(b"eXIf", exif))
    # Samples of 16 bits hardly ever repeat: looking for more than runs costs time and brings nothing.
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE, memLevel=9)
    chunks += [_chunk(b"IDAT", packed) for rows in _filtered(samples) if (packed := packer.compress(rows))]
    return b"".join([_SIGNATURE, *chunks, _chunk(b"IDAT", packer.flush()), _chunk(b"IEND", b"")])


def _filtered(samples: NDArray[np.uint8 | np.uint16]) -> Iterator[bytes]:
    """Rows of bytes, each less the average of the pixel to the left and the one above, a band at a time."""
    height, width, channels = samples.shape
    pixel, above = 2 * channels, np.zeros((1, 2 * channels * width), np.uint8)
    for top in range(0, height, _BAND):
        rows = samples[top : top + _BAND].astype(">u2").view(np.uint8).reshape(-1, pixel * width)
        left = np.pad(rows, ((0, 0), (pixel, 0)))[:, :-pixel]
        over = np.concatenate([above, rows[:-1]])
        less = rows - ((left.astype(np.uint16) + over) >> 1).astype(np.uint8)
        above = rows[-1:]
        yield np.pad(less, ((0, 0), (1, 0)), constant_values=_AVERAGE).tobytes()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))])
