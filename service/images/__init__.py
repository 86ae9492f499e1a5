"""Bytes ↔ pixels: what is accepted, what is refused, and what of a file survives the upscaling.

A file is judged by its header before a pixel is decoded. Colours stay in the file's own RGB profile; what is not RGB
(CMYK, grey with a grey profile, Lab) becomes sRGB. 16-bit grey and RGB, with or without alpha, of PNG and TIFF keep
all their bits. EXIF survives but for orientation (applied to the pixels), the sizes it records and its thumbnail.
XMP and IPTC do not: they describe the file that was (its size, its edits), and nothing here could make them true.
"""

from service.images.decode import ACCEPTED, decode, inspect
from service.images.encode import MIME_TYPES, check_side, encode
from service.images.picture import Picture, Pixels

__all__ = ["ACCEPTED", "MIME_TYPES", "Picture", "Pixels", "check_side", "decode", "encode", "inspect"]
