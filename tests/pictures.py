"""Pictures to send: a photo for the service, and flat corners in files of every kind."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# Four flat corners, large enough to survive JPEG's chroma blocks: red, green / blue, yellow.
CORNERS = np.zeros((32, 48, 3), np.uint8)
CORNERS[:16, :24], CORNERS[:16, 24:] = (200, 30, 30), (30, 160, 30)
CORNERS[16:, :24], CORNERS[16:, 24:] = (30, 30, 200), (200, 200, 30)
ALPHA = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))


def photo(width: int = 40, height: int = 24, kind: str = "PNG") -> bytes:
    y, x = np.mgrid[:height, :width]
    pixels = np.dstack([x * 255 // width, y * 255 // height, (x + y) % 256]).astype(np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def file(image: Image.Image, kind: str, **options) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


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


def close(got: np.ndarray, wanted: np.ndarray, within: int) -> bool:
    return got.shape == wanted.shape and int(np.abs(got.astype(int) - wanted.astype(int)).max()) <= within


def deep_png(samples: np.ndarray, extra: bytes = b"") -> bytes:
    """A PNG of `samples` [H, W, 1 … 4] in 16 bits."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows, extra)


def deep_tiff(
    samples: np.ndarray,
    order: str = "<",
    *,
    deflate: bool = False,
    differences: bool = False,
    planar: bool = False,
    tile: int = 0,
    extra: int | None = None,
    orientation: int = 1,
) -> bytes:
    """A TIFF of `samples` [H, W, 3 or 4] in 16 bits, written by hand: in strips of 5 rows, or in square tiles.

    `extra`: what the fourth sample is (2: alpha, 1: alpha that colours are multiplied with, 0: nothing known).
    """
    height, width, channels = samples.shape
    planes = [samples[..., [plane]] for plane in range(channels)] if planar else [samples]
    blocks = [block for plane in planes for block in _blocks(plane, tile, differences)]
    packed = [zlib.compress(data) if deflate else data for data in (b.astype(order + "u2").tobytes() for b in blocks)]
    tags = {256: [width], 257: [height], 258: [16] * channels, 259: [8 if deflate else 1], 262: [2], 277: [channels]}
    tags |= {274: [orientation], 284: [2 if planar else 1], 317: [2 if differences else 1]}
    if extra is not None:
        tags[338] = [extra]
    tags |= {322: [tile], 323: [tile]} if tile else {278: [5]}
    offsets, counts = (324, 325) if tile else (273, 279)
    starts = np.cumsum([8, *map(len, packed)]).tolist()
    tags |= {offsets: starts[:-1], counts: [len(data) for data in packed]}
    return _tiff(tags, b"".join(packed), order)


def _blocks(plane: np.ndarray, tile: int, differences: bool) -> list[np.ndarray]:
    height, width, channels = plane.shape
    down, across = (tile, tile) if tile else (5, width)
    if tile:
        plane = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
    blocks = [
        plane[top : top + down, left : left + across]
        for top in range(0, height, down)
        for left in range(0, width, across)
    ]
    nought = np.zeros((1, 1, channels), np.uint16)
    return [np.diff(b, axis=1, prepend=nought.repeat(len(b), 0)) if differences else b for b in blocks]


def _tiff(tags: dict[int, list[int]], body: bytes, order: str) -> bytes:
    at = 8 + len(body)
    values_at, entries, values = at + 2 + 12 * len(tags) + 4, b"", b""
    for tag, numbers in sorted(tags.items()):
        data = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(data) > 4:
            values, data = values + data, struct.pack(f"{order}I", values_at + len(values))
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + data
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values
