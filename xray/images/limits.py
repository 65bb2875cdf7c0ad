"""What a JPEG or PNG may hold around its pixels, counted before Pillow opens it: a few bytes could cost it hours."""

import re

from xray.errors import FileFault
from xray.vocabulary import Reason

MAX_SCANS = 100
"""As libtiff's for a JPEG in a TIFF. Ten are usual; each goes over the whole film again, however few its bytes."""

MAX_SEGMENTS = 10_000
"""The longest colour profile takes 255. Pillow keeps an object for each."""

MAX_EXIF_SEGMENTS = 16
"""A megabyte; one is usual. Pillow makes objects of the numbers in it."""

MAX_CHUNKS = 1000
"""Besides those of pixels. Pillow keeps an object for each, and inflates each that holds a text or a profile."""

MAX_PIXEL_CHUNKS = 100_000
"""Usual ones have 8 kilobytes."""

_PIXEL_CHUNKS = frozenset({b"IDAT", b"fcTL", b"fdAT"})
_END_OF_IMAGE, _START_OF_SCAN, _EXIF = 0xD9, 0xDA, 0xE1
# The markers at which Pillow and libjpeg go on after a segment's length; all others end their work or have no segment.
# Whatever lies between two segments is passed over as libjpeg does: pixels, fill bytes, restart markers.
_MARKER = re.compile(rb"\xff([\xc0-\xc7\xc9-\xcf\xd9-\xef\xfe])")


def check_jpeg_segments(data: bytes) -> None:
    """Refuse a JPEG of absurdly many segments or scans, as ``corrupt``; later pictures in the file do not count."""
    place, segments, scans, exif = 2, 0, 0, 0
    while found := _MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        # Pillow goes on after an end that comes before the first scan.
        if marker == _END_OF_IMAGE and scans:
            return
        segments += 1
        scans += marker == _START_OF_SCAN
        exif += marker == _EXIF and data.startswith(b"Exif\x00\x00", place + 2)
        check_limit(segments, MAX_SEGMENTS, "segments")
        check_limit(scans, MAX_SCANS, "scans")
        check_limit(exif, MAX_EXIF_SEGMENTS, "EXIF segments")
        if marker != _END_OF_IMAGE:
            place += max(2, int.from_bytes(data[place : place + 2]))


def check_png_chunks(data: bytes) -> None:
    """Refuse a PNG of absurdly many chunks, as ``corrupt``."""
    place, pixel_chunks, others = 8, 0, 0
    while place < len(data):
        length, name = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if name == b"IEND":
            return
        pixel_chunks += name in _PIXEL_CHUNKS
        others += name not in _PIXEL_CHUNKS
        check_limit(pixel_chunks, MAX_PIXEL_CHUNKS, "chunks of pixels")
        check_limit(others, MAX_CHUNKS, "chunks besides those of pixels")
        place += 12 + length


def check_limit(count: int, most: int, what: str) -> None:
    """Raise `FileFault` if `count` is over `most`."""
    if count > most:
        raise FileFault(Reason.CORRUPT, f"more than {most:,} {what}")
