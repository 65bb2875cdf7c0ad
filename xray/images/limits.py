"""Limits on what a JPEG or PNG holds besides pixels: without them a few bytes could keep Pillow busy for hours."""

import re

from xray.errors import FileFault
from xray.vocabulary import Reason

MAX_SCANS = 100
"""As libtiff's limit for a JPEG in a TIFF. Ten are usual; each decodes the whole image again, however few its bytes."""

MAX_SEGMENTS = 10_000
"""The longest colour profile takes 255. Pillow keeps an object for each."""

MAX_EXIF_SEGMENTS = 16
"""A megabyte in all; one segment is usual. Pillow makes objects of the numbers in it."""

MAX_CHUNKS = 1000
"""Chunks without pixels. Pillow keeps an object for each, and inflates those with text or a colour profile."""

MAX_PIXEL_CHUNKS = 100_000
"""Chunks usually have 8 kilobytes."""

_PIXEL_CHUNKS = frozenset({b"IDAT", b"fcTL", b"fdAT"})
_END_OF_IMAGE, _START_OF_SCAN, _EXIF = 0xD9, 0xDA, 0xE1
# The markers at which Pillow and libjpeg go on after a segment's length; all others end their work or have no segment.
# As in libjpeg, all else between two segments is skipped: pixels, fill bytes, restart markers.
_MARKER = re.compile(rb"\xff([\xc0-\xc7\xc9-\xcf\xd9-\xef\xfe])")


def check_jpeg_segments(data: bytes) -> None:
    """Raise `FileFault` (``corrupt``) for a JPEG with too many segments or scans, up to the end of its first image."""
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


def check_png_chunks(data: bytes) -> list[bytes]:
    """Return the names of a PNG's chunks, repeated ones once; raise `FileFault` (``corrupt``) for too many chunks."""
    place, pixel_chunks, others = 8, 0, 0
    names: list[bytes] = []
    while place < len(data):
        length, name = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if names[-1:] != [name]:
            names.append(name)
        if name == b"IEND":
            break
        pixel_chunks += name in _PIXEL_CHUNKS
        others += name not in _PIXEL_CHUNKS
        check_limit(pixel_chunks, MAX_PIXEL_CHUNKS, "chunks of pixels")
        check_limit(others, MAX_CHUNKS, "chunks besides those of pixels")
        place += 12 + length
    return names


def check_limit(count: int, limit: int, what: str) -> None:
    """Raise `FileFault` (``corrupt``) if `count` is over `limit`."""
    if count > limit:
        raise FileFault(Reason.CORRUPT, f"more than {limit:,} {what}")
