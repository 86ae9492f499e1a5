"""Bytes ↔ pixels: what is accepted, what is refused, and what of a file survives the upscaling.

A file is judged by its header before a pixel is decoded. Colours stay in the file's own RGB profile; what is not RGB
(CMYK, grey with a grey profile, Lab) becomes sRGB. 16-bit samples are scaled to 8 bits.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageCms, UnidentifiedImageError

from service.errors import BadOption, NotAnImage, ServiceError, TooManyPixels, Truncated
from service.job import OutputFormat
from service.jpeg import refuse_many_scans

Pixels = NDArray[np.uint8]

ACCEPTED = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP")
MIME_TYPES: dict[OutputFormat, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "avif": "image/avif",
}
LONGEST_SIDE: dict[OutputFormat, int] = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383, "avif": 65_535}
"""What the formats themselves can hold, in pixels."""

_SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"ftypavi", b"GIF8", b"II*\0", b"MM\0*")

MAX_ICC_BYTES = 4 * 2**20
MAX_JPEG_EXIF_BYTES = 65_533

_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF orientation."""

_DESCRIPTIVE_TAGS = {
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright),
    *(ExifTags.Base.Rating, ExifTags.Base.RatingPercent),
    *(ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor),
    *(ExifTags.Base.XPKeywords, ExifTags.Base.XPSubject),
    *(ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
}
"""Of a TIFF's directory only these are about the photo; the others describe how that file stores it."""

# Pillow warns about files that are odd; here a file is either decoded or refused by an exception. A filter set once is
# safe with threads, where `catch_warnings` around each call is not.
warnings.filterwarnings("ignore", module=r"PIL\..*")


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright image and what must survive beside its colours."""

    rgb: Pixels
    """[H, W, 3], in the colours of `icc`, or sRGB without one."""
    alpha: Pixels | None = None
    """[H, W]"""
    icc: bytes | None = None
    """An RGB profile."""
    exif: bytes | None = None
    """Without orientation: it is applied to the pixels."""

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.rgb.shape[0])

    def with_rgb(self, rgb: Pixels) -> "Picture":
        """The same picture with new colours of any size; alpha follows the size."""
        alpha = self.alpha
        if alpha is not None and alpha.shape != rgb.shape[:2]:
            size = (rgb.shape[1], rgb.shape[0])
            # Pillow clamps Lanczos' overshoot to 0 … 255.
            alpha = np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.LANCZOS))
        return replace(self, rgb=rgb, alpha=alpha)


def inspect(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Width and height, upright, of a file that `decode` will accept; the file is decoded to its end to know."""
    with _opened(data, max_pixels) as image:
        _refuse_deep_samples(image)
        orientation = _exif(image)[0]
        return (image.height, image.width) if orientation >= 5 else image.size


def decode(data: bytes, *, max_pixels: int) -> Picture:
    """The file's (first) image. Raises NotAnImage, Truncated or TooManyPixels."""
    with _opened(data, max_pixels) as image:
        orientation, exif = _exif(image)
        colours, icc = _as_rgb(image)
        if orientation in _TRANSPOSED:
            colours = colours.transpose(_TRANSPOSED[orientation])
        pixels = np.asarray(colours)
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return Picture(np.ascontiguousarray(pixels[..., :3]), alpha, icc, exif)


def encode(picture: Picture, file_format: OutputFormat, quality: int) -> tuple[bytes, str]:
    """The file's bytes and MIME type. JPEG has no alpha: there the picture is laid on white."""
    check_side(file_format, picture.width, picture.height)
    rgb = picture.rgb
    if picture.alpha is not None:
        rgb = _on_white(picture) if file_format == "jpeg" else np.dstack([rgb, picture.alpha])
    exif = _exif_for_size(picture.exif, picture.width, picture.height) if picture.exif else b""
    if file_format == "jpeg" and len(exif) > MAX_JPEG_EXIF_BYTES:
        exif = b""
    options: dict[str, int | str] = {"quality": quality}
    chroma = "4:4:4" if quality >= 90 else "4:2:0"
    match file_format:
        case "png":
            options = {"compress_level": 4}  # photos hardly shrink beyond it, only slower
        case "jpeg":
            options["subsampling"] = chroma
        case "avif":
            options |= {"subsampling": chroma, "speed": 8}
        case "webp":
            options["method"] = 4
    out = BytesIO()
    Image.fromarray(rgb).save(out, file_format.upper(), icc_profile=picture.icc, exif=exif, **options)
    return out.getvalue(), MIME_TYPES[file_format]


def check_side(file_format: OutputFormat, width: int, height: int) -> None:
    """Refuse a result that its file format cannot hold."""
    if max(width, height) > LONGEST_SIDE[file_format]:
        raise BadOption(
            f"The result would be {width}×{height} pixels; {file_format} holds {LONGEST_SIDE[file_format]} on a side.",
            "Ask for format=png, or for a smaller scale.",
        )


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


def _exif(image: Image.Image) -> tuple[int, bytes | None]:
    """Orientation, and the EXIF block without it. Damaged EXIF is no reason to refuse a photo: it is left out."""
    try:
        exif = image.getexif()
        orientation = exif.pop(ExifTags.Base.Orientation, 1)
        if image.format == "TIFF":
            for tag in set(exif) - _DESCRIPTIVE_TAGS:
                del exif[tag]
            exif.bigtiff = False
        kept = exif.tobytes() if len(exif) else None
    except Exception:  # noqa: BLE001  any parser error
        return 1, None
    return (orientation if orientation in _TRANSPOSED else 1), kept


def _exif_for_size(exif: bytes, width: int, height: int) -> bytes:
    """The block with its own record of the image's size, where it has one, made true again."""
    try:
        block = Image.Exif()
        block.load(exif)
        details = block.get_ifd(ExifTags.IFD.Exif)
        for tag, value in ((ExifTags.Base.ExifImageWidth, width), (ExifTags.Base.ExifImageHeight, height)):
            if tag in details:
                details[tag] = value
        return block.tobytes()
    except Exception:  # noqa: BLE001  an odd block is no reason to lose the finished photo
        return b""


def _as_rgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """RGB or RGBA, and the profile that still describes it."""
    _refuse_deep_samples(image)
    if image.mode.startswith("I;16"):
        image = _eight_bit(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for Adobe's inverted kind; without Adobe's mark it is the plain one.
        image = _like(image, ImageChops.invert(image))
    if max(transparency := _colour_key(image)) > 255:
        image.info["transparency"] = tuple(level >> 8 for level in transparency)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    space, profile = _profile(image)
    if profile is not None and space != "RGB":
        return _to_srgb(image, profile, mode), None
    if image.mode == "LAB":
        return _to_srgb(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), mode), None
    icc = image.info["icc_profile"] if profile is not None and image.mode != "CMYK" else None
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert(mode), icc


def _profile(image: Image.Image) -> tuple[str, ImageCms.ImageCmsProfile | None]:
    """The colour space of the file's profile and the profile, if it can be read and fits the pixels."""
    icc = image.info.get("icc_profile")
    if not icc or len(icc) > MAX_ICC_BYTES:
        return "", None
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
    except Exception:  # noqa: BLE001  a profile that cannot be read says nothing about the colours
        return "", None
    space = profile.profile.xcolor_space.strip()
    fits = {"CMYK": ("CMYK",), "GRAY": ("1", "L", "LA", "La"), "Lab": ("LAB",)}
    if space == "RGB":
        return space, profile if image.mode not in ("CMYK", "LAB") else None
    return space, profile if image.mode in fits.get(space, ()) else None


def _to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile, mode: str) -> Image.Image:
    alpha = image.convert("RGBA").getchannel("A") if mode == "RGBA" else None
    plain = image if image.mode in ("CMYK", "LAB") else image.convert("L")
    try:
        colours = ImageCms.profileToProfile(plain, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        colours = plain.convert("RGB")
    if colours is None:  # only in place
        raise AssertionError
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit (or 12-bit) grey as 8-bit grey, scaled, never clipped; a transparent level becomes alpha."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    top = 2**bits - 1
    levels = np.asarray(image).astype(np.uint32)
    grey = ((np.minimum(levels, top) * 255 + top // 2) // top).astype(np.uint8)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero
        grey = 255 - grey
    transparent = image.info.pop("transparency", None)
    if transparent is None:
        return _like(image, Image.fromarray(grey))
    alpha = np.where(levels == transparent, 0, 255).astype(np.uint8)
    return _like(image, Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha))))


def _colour_key(image: Image.Image) -> tuple[int, ...]:
    """The RGB colour that a PNG declares transparent; of a 16-bit one in 16 bits, while the pixels are in 8."""
    key = image.info.get("transparency")
    return key if image.mode == "RGB" and isinstance(key, tuple) else (0,)


def _like(image: Image.Image, pixels: Image.Image) -> Image.Image:
    pixels.info = image.info
    pixels.format = image.format
    return pixels


def _refuse_deep_samples(image: Image.Image) -> None:
    if image.mode in ("I", "F"):
        raise NotAnImage("The image has 32-bit or signed samples.", "Save it with 8 or 16 bits per channel.")


def _on_white(picture: Picture) -> Pixels:
    alpha = Image.fromarray(picture.alpha) if picture.alpha is not None else None
    white = Image.new("RGB", (picture.width, picture.height), "white")
    return np.asarray(Image.composite(Image.fromarray(picture.rgb), white, alpha) if alpha else white)
