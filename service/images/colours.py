"""From any kind of colour that a file may hold to RGB, and the profile that still describes it."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from service.errors import NotAnImage
from service.images.deep import deep_samples
from service.images.picture import Pixels

MAX_ICC_BYTES = 4 * 2**20

_FITS = {"CMYK": ("CMYK",), "GRAY": ("1", "L", "LA", "La"), "Lab": ("LAB",)}
"""Modes of pixels that a profile of a colour space can describe."""


def refuse_wide_samples(image: Image.Image) -> None:
    """Refuse what is no photo: 32-bit, signed or floating samples."""
    if image.mode in ("I", "F"):
        raise NotAnImage("The image has 32-bit or signed samples.", "Save it with 8 or 16 bits per channel.")


def as_rgb(image: Image.Image, data: bytes) -> tuple[Pixels, bytes | None]:
    """[H, W, 3 or 4] of a loaded image and its file, in 8 or 16 bits, and the profile of these colours, if any."""
    refuse_wide_samples(image)
    samples = deep_samples(image, data)
    if samples is not None:
        return _deep_rgb(samples, image)
    colours, icc = _eight_bit_rgb(image)
    return np.asarray(colours), icc


def _deep_rgb(samples: NDArray[np.uint16], image: Image.Image) -> tuple[Pixels, bytes | None]:
    channels = samples.shape[2]
    colours, alpha = (samples[..., :-1], samples[..., -1:]) if channels in (2, 4) else (samples, None)
    key = image.info.get("transparency")
    if alpha is None and key is not None:
        alpha = np.where((colours == key).all(-1, keepdims=True), 0, 65_535).astype(np.uint16)
    space, profile = _profile(image, "L" if channels < 3 else "RGB")
    if profile is not None and space != "RGB":
        colours = _deep_grey_to_srgb(colours[..., 0], profile)
    elif channels < 3:
        colours = np.repeat(colours, 3, 2)
    pixels = colours if alpha is None else np.dstack([colours, alpha])
    return pixels, image.info["icc_profile"] if space == "RGB" and profile is not None else None


def _deep_grey_to_srgb(grey: NDArray[np.uint16], profile: ImageCms.ImageCmsProfile) -> NDArray[np.uint16]:
    """Colour management is of 8 bits: it makes a curve of 256 points, straight between them."""
    levels = np.arange(256, dtype=np.uint8)
    curve = np.asarray(_to_srgb(Image.fromarray(levels[None]), profile, "RGB"))[0]
    return np.dstack([np.rint(np.interp(grey, levels * 257.0, tone * 257.0)).astype(np.uint16) for tone in curve.T])


def _eight_bit_rgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for Adobe's inverted kind; without Adobe's mark it is the plain one.
        inverted = ImageChops.invert(image)
        inverted.info, image = image.info, inverted
    mode = "RGBA" if image.has_transparency_data else "RGB"
    space, profile = _profile(image, image.mode)
    if profile is not None and space != "RGB":
        return _to_srgb(image, profile, mode), None
    if image.mode == "LAB":
        return _to_srgb(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), mode), None
    icc = image.info["icc_profile"] if profile is not None and image.mode != "CMYK" else None
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert(mode), icc


def _profile(image: Image.Image, mode: str) -> tuple[str, ImageCms.ImageCmsProfile | None]:
    """The colour space of the file's profile and the profile, if it can be read and fits pixels of that mode."""
    icc = image.info.get("icc_profile")
    if not icc or len(icc) > MAX_ICC_BYTES:
        return "", None
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
    except Exception:  # noqa: BLE001  a profile that cannot be read says nothing about the colours
        return "", None
    space = profile.profile.xcolor_space.strip()
    if space == "RGB":
        return space, profile if mode not in ("CMYK", "LAB") else None
    return space, profile if mode in _FITS.get(space, ()) else None


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
