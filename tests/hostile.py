"""Files and bodies that mean harm, or met it: the corpus of the hostile-input tests."""

import random
import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

KINDS = {
    "PNG": {},
    "JPEG": {"quality": 90},
    "WEBP": {},
    "GIF": {},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {},
    "BMP": {},
}
BOUNDARY = b"frontier"


def seeds() -> dict[str, bytes]:
    """One small sound file of each kind, and animated ones."""
    noise = np.random.default_rng(7).integers(0, 256, (16, 24, 3), np.uint8)
    image, made = Image.fromarray(noise), {}
    for kind, options in KINDS.items():
        made[kind] = _saved(image, kind, **options)
    made["PNG of a palette"] = _saved(image.quantize(16), "PNG", transparency=3)
    made["progressive JPEG"] = _saved(
        image, "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0" + bytes(40)
    )
    frames = [Image.fromarray(noise[::-1].copy()), Image.fromarray(noise[:, ::-1].copy())]
    for kind in ("GIF", "WEBP", "PNG"):
        made[f"animated {kind}"] = _saved(image, kind, save_all=True, append_images=frames, duration=40)
    return made


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def truncated() -> list[bytes]:
    """Every seed, cut at ten places."""
    return [data[: len(data) * cut // 10] for data in seeds().values() for cut in range(10)]


def flipped(each: int = 15) -> list[bytes]:
    """Every seed with one to eight bits flipped; half of the flips near the header, where they hurt."""
    chance, made = random.Random(11), []
    for data in seeds().values():
        for turn in range(each):
            broken = bytearray(data)
            reach = min(64, len(broken)) if turn % 2 else len(broken)
            for _ in range(chance.randint(1, 8)):
                broken[chance.randrange(reach)] ^= 1 << chance.randrange(8)
            made.append(bytes(broken))
    return made


def bombs() -> dict[str, bytes]:
    """Small files that would be large in memory."""
    ihdr = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    small = struct.pack(">IIBBBBB", 24, 16, 8, 2, 0, 0, 0)
    zeros = zlib.compress(bytes(30_000_000), 9)
    rows = chunk(b"IDAT", zlib.compress(bytes(16 * 73)))
    end, magic = chunk(b"IEND", b""), b"\x89PNG\r\n\x1a\n"
    gif = bytearray(seeds()["GIF"])
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    bmp = bytearray(seeds()["BMP"])
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    tags = [
        (256, 4, 1, 2**31 - 1),
        (257, 4, 1, 2**31 - 1),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
    ]
    tiff = (
        b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4)
    )
    endless = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 256, 4, 2**32 - 1, 8, 8)
    webp = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + b"\xff\xff\xff" * 2 + b"VP8 \0\0\0\0"
    return {
        "PNG of 3.6 gigapixels": magic + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zeros) + end,
        "PNG with a text bomb": magic + chunk(b"IHDR", small) + chunk(b"zTXt", b"a\0\0" + zeros) + rows + end,
        "PNG with an ICC bomb": magic + chunk(b"IHDR", small) + chunk(b"iCCP", b"a\0\0" + zeros) + rows + end,
        "PNG with too many rows": magic + chunk(b"IHDR", small) + chunk(b"IDAT", zeros) + end,
        "PNG of no size": magic + chunk(b"IHDR", bytes(13)) + rows + end,
        "PNG with a huge chunk": magic + chunk(b"IHDR", small) + struct.pack(">I", 2**31 - 1) + b"IDAT" + bytes(100),
        "GIF of a huge screen": bytes(gif),
        "BMP of a huge size": bytes(bmp),
        "TIFF of a huge size": tiff,
        "TIFF with an endless directory": endless,
        "WebP of the largest canvas": webp,
        "JPEG of 20,000 scans": many_scans(20_000),
        "GIF of 2,000 frames": _saved(
            Image.new("P", (24, 16)),
            "GIF",
            save_all=True,
            append_images=[Image.new("P", (24, 16), i % 2) for i in range(2000)],
        ),
    }


def many_scans(count: int, side: int = 1000) -> bytes:
    """A progressive JPEG whose last scan, of a few bytes, comes again and again."""
    sound = _saved(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = sound[sound.rindex(b"\xff\xda") : -2]
    return sound[:-2] + count * last + sound[-2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def strangers() -> list[bytes]:
    """What is no photo at all, though some say so."""
    return [
        b"",
        b"\0",
        b"hello",
        bytes(5000),
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage",
        b"P6 100000 100000 255\n",
        b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        b"PK\x03\x04" + bytes(100),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"RIFF\xff\xff\xff\xffWEBP",
        b"GIF89a",
        b"MM\0*\0\0\0\x08",
        b"\0\0\0\x18ftypavif\0\0\0\0avif",
        b"BM" + bytes(52),
        b"http://169.254.169.254/latest/meta-data",
        b"../../etc/passwd",
    ]


def broken_forms() -> list[tuple[str, bytes]]:
    """Content types and bodies of forms that no client should send."""
    good = seeds()["PNG"]
    head = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    start, end = b"--" + BOUNDARY + b"\r\n", b"\r\n--" + BOUNDARY + b"--\r\n"
    form, many = "multipart/form-data; boundary=frontier", b"".join
    field = b'Content-Disposition: form-data; name="scale"\r\n\r\n'
    return [
        (form, b""),
        (form, start),
        (form, start + head),
        (form, start + head + good),
        (form, start + head + good + b"\r\n--" + BOUNDARY),
        (form, start + good + end),
        (form, start + b"\r\n" + good + end),
        (form, start + b"Content-Disposition: form-data\r\n\r\n" + good + end),
        (form, start + b'Content-Disposition: form-data; name="image"\r\n\r\n' + good + end),
        (form, start + b"Content-Disposition: \xff\xfe\r\n\r\n" + good + end),
        (form, start + b": no name\r\n\r\n" + good + end),
        (form, start + b"no colon\r\n\r\n" + good + end),
        (form, start + b"X: " + b"y" * 100_000 + b"\r\n" + head + good + end),
        (form, start + many(b"X-%d: y\r\n" % i for i in range(5000)) + head + good + end),
        (form, many(start + field + b"1\r\n" for _ in range(500)) + end),
        (form, start + field + b"9" * 100_000 + end),
        (form, start + field + b"\xff\xfe\x00" + b"\r\n" + start + head + good + end),
        (form, (start + head + good + b"\r\n") * 3 + end),
        (form, start + head.replace(b"a.png", b"../../../etc/passwd\0.png") + good[:-9] + end),
        (form, start + head.replace(b"a.png", b"a" * 50_000) + good[:-9] + end),
        (form, start + head.replace(b'"a.png"', b"utf-8''%ff%00") + good[:-9] + end),
        ("multipart/form-data", start + head + good + end),
        ("multipart/form-data; boundary=", start + head + good + end),
        ('multipart/form-data; boundary="', start + head + good + end),
        ("multipart/form-data; boundary=" + "b" * 5000, start + head + good + end),
        ("multipart/form-data; boundary=other", start + head + good + end),
        ("multipart/form-data; charset=nonesuch; boundary=frontier", start + head + good[:-9] + end),
        ("multipart/form-data; charset=utf-16; boundary=frontier", start + head + good[:-9] + end),
        ("multipart/form-data; charset=zlib_codec; boundary=frontier", start + field + b"1" + end),
        ("multipart/mixed; boundary=frontier", start + head + good + end),
        ("text/plain", good),
        ("application/json", b'{"image": "x"}'),
        ("application/x-www-form-urlencoded", b"image=" + b"%ff" * 1000),
        ("image/../png", b"x"),
        (";;;", good),
        ("", good),
    ]
