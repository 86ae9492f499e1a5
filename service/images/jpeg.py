"""How much work a JPEG asks for, known before its first pixel is decoded."""

import re

from service.errors import Truncated

MAX_SCANS = 64
"""A progressive file sends its picture in about ten passes. Each takes 31 bytes, and time for the whole picture."""

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# Stuffed bytes, restarts and codes below C0 are no segments: no length follows them, and decoders pass over them.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


def refuse_many_scans(data: bytes) -> None:
    """Refuse a JPEG file with more scans than any encoder makes.

    Segments are skipped by their length and scans by their next marker, as a decoder does, up to the end of the
    (first) image: in what lies behind it, a motion photo's film, anything may look like a scan.
    """
    at = scans = 0
    while found := _MARKER.search(data, at):
        at, marker = found.end(), found[0][1]
        if marker == _EOI:
            return
        if marker == _SOI:
            continue
        scans += marker == _SOS
        if scans > MAX_SCANS:
            raise Truncated(f"The JPEG has more than {MAX_SCANS} scans.", "Open the photo and save it again.")
        at += int.from_bytes(data[at : at + 2])
