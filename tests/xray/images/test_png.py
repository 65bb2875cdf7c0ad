"""PNG: plain ones as Pillow reads them, and what a PNG may hold besides pixels."""

import io
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.archives import image_pixels, png, png_chunk, png_of
from tests.xray.images.test_decode import GRAY, ORIENTATION, gray_or_fault, reason_of
from xray.errors import FileFault
from xray.images.decode import decode
from xray.vocabulary import Reason

PLAIN = [
    png_of(image_pixels(3, 40, 33), bits=8),
    png_of(np.dstack([image_pixels(n, 40, 33) for n in (1, 2, 3)]), bits=8),
]


def by_pillow(data: bytes) -> np.ndarray | str:
    """Decode a PNG with Pillow alone: what a plain one must come out as, or that it is a fault."""
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    except (OSError, SyntaxError, ValueError):
        return "fault"


def with_checksums(data: bytes) -> bytes:
    """Correct the checksum of each chunk of a PNG, up to the first that is cut."""
    place, chunks = 8, data[:8]
    while place + 12 <= len(data) - int.from_bytes(data[place : place + 4]):
        end = place + 8 + int.from_bytes(data[place : place + 4])
        chunks += png_chunk(data[place + 4 : place + 8], data[place + 8 : end])
        place = end + 4
    return chunks


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PLAIN), st.integers(0, 2000), st.integers(0, 255), st.integers(0, 400))
def test_a_plain_png_is_read_or_refused_as_pillow_does_however_it_is_damaged(data, place, value, cut):
    damaged = bytearray(data)
    damaged[33 + place % (len(data) - 33)] = value
    for changed in (bytes(damaged), with_checksums(bytes(damaged)), bytes(damaged[: max(33, len(data) - cut)])):
        expected, found = by_pillow(changed), gray_or_fault(changed)

        assert isinstance(found, FileFault) == isinstance(expected, str)
        assert isinstance(found, FileFault) or np.array_equal(found, expected)


@pytest.mark.parametrize("data", PLAIN, ids=["gray", "RGB"])
@pytest.mark.parametrize("name", [b"gAMA", b"pHYs", b"tEXt", b"sRGB", b"cHRM"])
def test_what_a_plain_png_says_besides_its_pixels_leaves_them_as_they_are(data, name):
    body = {b"gAMA": bytes([0, 0, 90, 0]), b"pHYs": bytes(9), b"tEXt": b"a\0b", b"sRGB": b"\0", b"cHRM": bytes(32)}[
        name
    ]

    assert np.array_equal(decode(data[:33] + png_chunk(name, body) + data[33:]), decode(data))


@pytest.mark.parametrize("before_pixels", [True, False])
def test_an_orientation_that_a_png_keeps_as_text_is_applied(before_pixels):
    exif = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, ORIENTATION, 3, 1, 6, 0, 0)
    profile = f"\nexif\n{len(exif) + 6:8}\n{(b'Exif' + bytes(2) + exif).hex()}\n".encode()
    text = png_chunk(b"tEXt", b"Raw profile type exif\0" + profile)
    place = 33 if before_pixels else len(PLAIN[0]) - 12

    assert np.array_equal(decode(PLAIN[0][:place] + text + PLAIN[0][place:]), np.rot90(decode(PLAIN[0]), -1))


def test_damaged_plain_pngs_leave_no_memory_behind():
    whole = png_of(np.random.default_rng(0).integers(0, 256, (700, 700), np.uint8), bits=8)
    damaged = whole[:-40]

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    for _ in range(20):
        gray_or_fault(damaged)
    before = resident()
    for _ in range(200):
        gray_or_fault(damaged)

    assert resident() - before < 20 * len(whole)


@pytest.mark.parametrize(("name", "most"), [(b"tEXt", 1000), (b"prVt", 1000), (b"IDAT", 100_000), (b"fdAT", 100_000)])
def test_chunks_that_pillow_would_keep_objects_for_are_bounded(name, most):
    whole = png(1)

    with pytest.raises(FileFault, match=f"corrupt: more than {most:,} chunks"):
        decode(whole[:33] + png_chunk(name, b"") * (most + 1) + whole[33:])


@pytest.mark.parametrize(
    ("name", "head"), [(b"zTXt", b"History\0\0"), (b"iCCP", b"profile\0\0"), (b"iTXt", b"t\0\1\0\0\0")]
)
def test_long_texts_and_profiles_in_a_png_do_not_lose_the_image(name, head):
    whole = png(7)
    long, too_long = (head + zlib.compress(bytes(size)) for size in (2**24, 2**24 + 1))

    assert np.array_equal(decode(whole[:33] + png_chunk(name, long) + whole[33:]), GRAY)
    assert reason_of(whole[:33] + png_chunk(name, too_long) + whole[33:]) is Reason.CORRUPT


def test_what_lies_behind_the_end_of_a_png_is_not_counted():
    assert np.array_equal(decode(png(7) + bytes(2_000_000)), GRAY)


def test_an_exif_block_of_megabytes_in_a_png_is_ignored():
    numbers = struct.pack("<2sHIHHHIHHHHIII", b"II", 42, 8, 2, 274, 3, 1, 6, 0, 37121, 3, 10**6, 38, 0) + bytes(
        2 * 10**6
    )
    whole = png(7)
    turned = whole[:33] + png_chunk(b"eXIf", numbers[:100]) + whole[33:]

    assert decode(turned).shape == GRAY.T.shape
    assert np.array_equal(decode(whole[:33] + png_chunk(b"eXIf", numbers) + whole[33:]), GRAY)
