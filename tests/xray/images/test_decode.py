"""Decoding: every form of image that is read, and every kind of damage."""

import io
import random
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.archives import (
    PNG_COLOURS,
    encoded,
    image_pixels,
    jpeg,
    jpeg_scanned_again,
    png,
    png_chunk,
    png_file,
    png_of,
    png_of_ten_gigapixels,
    tiff_file,
    tiff_of,
    truncated,
)
from xray.errors import FileFault
from xray.images.decode import decode, open_image
from xray.images.raster import RasterImage
from xray.vocabulary import Reason

GRAY = image_pixels(7)
ORIENTATION = 0x0112
LAYOUTS = [("<", False), (">", False), ("<", True)]
LAYOUT_NAMES = ["little-endian", "big-endian", "BigTIFF"]


def reason_of(data: bytes, **options: int) -> Reason:
    with pytest.raises(FileFault) as fault:
        decode(data, **options)
    assert "/" not in fault.value.detail
    return fault.value.reason


def gray_or_fault(data: bytes) -> np.ndarray | FileFault:
    try:
        return decode(data, max_pixels=1_000_000)
    except FileFault as fault:
        return fault


def pixel_count(data: bytes) -> int:
    try:
        return open_image(data).pixel_count
    except FileFault:
        return 0


def twelve_bits() -> np.ndarray:
    return (np.arange(600, dtype=np.uint16) * 6 + 400).reshape(20, 30)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_a_gray_image_is_decoded_to_the_same_pixels_in_every_lossless_form(file_format, mode):
    data = encoded(Image.fromarray(GRAY).convert(mode), file_format)

    assert np.array_equal(decode(data), GRAY)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_comes_out_bone_bright_in_gray_colour_and_cmyk(mode):
    smooth = Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8) * 2)

    decoded = decode(encoded(smooth.convert(mode), "JPEG", quality=95))

    assert np.abs(decoded.astype(int) - np.asarray(smooth)).max() <= 4


def test_one_bit_becomes_black_and_white():
    mask = GRAY > 90

    assert np.array_equal(decode(encoded(Image.fromarray(mask), "PNG")), np.where(mask, 255, 0))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_twelve_bits_in_sixteen_use_the_whole_range(compression):
    pixels = twelve_bits()

    decoded = decode(encoded(Image.fromarray(pixels), "TIFF", compression=compression))

    assert np.array_equal(decoded, decode(png_of(pixels, bits=16)))
    assert (decoded.min(), decoded.max()) == (0, 255)
    assert np.all(np.diff(decoded.ravel().astype(int)) >= 0)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_are_mapped_as_sixteen(dtype):
    pixels = twelve_bits()

    decoded = decode(encoded(Image.fromarray(pixels.astype(dtype) - 1000), "TIFF"))

    assert np.array_equal(decoded, decode(png_of(pixels, bits=16)))


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32])
def test_a_big_endian_image_is_decoded_like_a_little_endian_one(dtype, deflated):
    pixels = twelve_bits().astype(dtype)

    decoded = decode(tiff_of(pixels, byte_order=">", deflated=deflated))

    assert np.array_equal(decoded, decode(tiff_of(pixels, deflated=deflated)))
    assert np.array_equal(decoded, decode(png_of(twelve_bits(), bits=16)))


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32])
def test_signed_and_unsigned_values_keep_their_order(dtype, deflated):
    limits = np.iinfo(dtype)
    pixels = np.linspace(limits.min, limits.max, 256).astype(dtype).reshape(16, 16)

    decoded = decode(tiff_of(pixels, deflated=deflated))

    assert np.abs(decoded.ravel().astype(int) - np.arange(256)).max() <= 1


def test_thirty_two_bits_are_unsigned_where_the_file_does_not_say():
    pixels = np.array([[0, 2**31, 2**32 - 1]], np.uint32)

    assert decode(tiff_of(pixels, {339: []})).tolist() == [[0, 128, 255]]


def test_a_deep_image_of_one_value_is_black():
    assert not decode(png_of(np.full((4, 4), 900, np.uint16), bits=16)).any()


def test_floats_that_are_no_numbers_are_corrupt():
    pixels = np.full((4, 4), np.nan, np.float32)

    assert reason_of(encoded(Image.fromarray(pixels), "TIFF")) is Reason.CORRUPT


def test_white_is_zero_is_inverted_at_eight_bits():
    # Pillow inverts both ways, so the file's bytes are what tells.
    data = encoded(Image.fromarray(GRAY), "TIFF", tiffinfo={262: 0})

    assert np.invert(GRAY).tobytes() in data
    assert np.array_equal(decode(data), GRAY)


@pytest.mark.parametrize(("byte_order", "big"), LAYOUTS, ids=LAYOUT_NAMES)
@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_white_is_zero_is_inverted_above_eight_bits(dtype, deflated, byte_order, big):
    pixels = twelve_bits().astype(dtype)

    inverted = tiff_of(pixels, {262: [0]}, byte_order=byte_order, deflated=deflated, big=big)

    assert np.array_equal(decode(inverted), np.invert(decode(png_of(twelve_bits(), bits=16))))


def test_what_is_transparent_is_black():
    layers = np.dstack([GRAY, GRAY, GRAY, np.where(GRAY > 90, 255, 0).astype(np.uint8)])

    decoded = decode(encoded(Image.fromarray(layers), "PNG"))

    assert np.array_equal(decoded, np.where(GRAY > 90, GRAY, 0))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_the_exif_orientation_is_applied(file_format):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.fromarray(np.repeat(np.repeat(GRAY, 8, 0), 8, 1))

    turned = decode(encoded(image, file_format, exif=exif))

    assert np.abs(turned.astype(int) - np.rot90(np.asarray(image), -1)).max() <= 40
    assert turned.shape == (image.width, image.height)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_the_size_that_the_header_gives_is_that_of_the_decoded_image(file_format, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(GRAY[:, :-3]), file_format, exif=exif)

    assert RasterImage(data).size == decode(data).shape


def test_a_damaged_exif_block_does_not_lose_the_image():
    data = encoded(Image.fromarray(GRAY), "JPEG", exif=b"Exif\x00\x00garbage that is no TIFF")

    assert decode(data).shape == RasterImage(data).size == GRAY.shape


def test_no_bytes_are_empty():
    assert reason_of(b"") is Reason.EMPTY


@pytest.mark.parametrize("data", [b"image,label\n", b"GIF89a", encoded(Image.fromarray(GRAY), "BMP"), b"\x00"])
def test_other_content_is_no_image_whatever_its_name(data):
    assert reason_of(data) is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    "whole",
    [
        jpeg(1),
        encoded(Image.fromarray(GRAY).convert("RGB"), "JPEG", progressive=True),
        png(1),
        encoded(Image.fromarray(image_pixels(1, 200, 200)), "TIFF"),
        encoded(Image.fromarray(image_pixels(1, 200, 200)), "TIFF", compression="tiff_lzw"),
    ],
)
def test_half_a_file_is_truncated(whole):
    assert reason_of(truncated(whole)) is Reason.TRUNCATED


def test_a_signature_alone_is_truncated():
    assert reason_of(b"\xff\xd8\xff") is Reason.TRUNCATED
    assert reason_of(b"\x89PNG\r\n\x1a\n") is Reason.TRUNCATED


def test_damage_within_is_corrupt():
    assert reason_of(png_file(20, 24, b"this is no zlib stream")) is Reason.CORRUPT


def test_a_form_that_is_not_read_is_unsupported():
    lab = Image.fromarray(GRAY).convert("RGB").convert("LAB")

    assert reason_of(encoded(lab, "TIFF")) is Reason.UNSUPPORTED


def test_a_big_endian_bigtiff_is_unsupported_and_not_said_to_be_cut():
    assert reason_of(tiff_of(GRAY, byte_order=">", big=True)) is Reason.UNSUPPORTED
    assert np.array_equal(decode(tiff_of(GRAY, byte_order="<", big=True)), GRAY)


def deep_colour(channels: int, span: int) -> np.ndarray:
    """Return tinted noise whose values span so much of 16 bits; whatever comes after colour or gray is alpha."""
    return np.random.default_rng(channels).integers(65535 - span, 65535, (40, 30, channels), np.uint16, endpoint=True)


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Write a PNG of 16 bits in the seven passes of Adam7 (PNG specification, 8.2)."""
    height, width, channels = pixels.shape
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b""
    for top, left, down, right in passes:
        part = pixels[top::down, left::right].astype(">u2")
        lines += np.pad(part.view(np.uint8).reshape(len(part), -1), ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOURS[channels], 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in chunks)


def stretched_luma(pixels: np.ndarray) -> np.ndarray:
    """Compute in floating point what must come out of deep colour."""
    values = pixels.astype(float)
    gray = values[..., :3] @ [0.299, 0.587, 0.114] if pixels.shape[-1] > 2 else values[..., 0]
    if pixels.shape[-1] in (2, 4):
        gray *= values[..., -1] / 65535
    low, high = np.quantile(gray, (0.005, 0.995), method="inverted_cdf")
    return np.clip((gray - low) / (high - low), 0, 1) * 255


@pytest.mark.parametrize("span", [4095, 65535])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_colour_and_alpha_in_a_png_are_read_to_the_last_bit_that_counts(channels, span):
    pixels = deep_colour(channels, span)

    decoded = decode(png_of(pixels, bits=16))

    assert np.abs(decoded - stretched_luma(pixels)).max() <= 1


@pytest.mark.parametrize("span", [4095, 65535])
@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize(("byte_order", "big"), LAYOUTS, ids=LAYOUT_NAMES)
@pytest.mark.parametrize("fields", [{}, {338: [2]}, {338: [0]}, {258: [16]}], ids=["RGB", "RGBA", "RGBX", "bits once"])
def test_deep_colour_and_alpha_in_a_tiff_are_read_to_the_last_bit_that_counts(fields, byte_order, big, deflated, span):
    pixels = deep_colour(4 if 338 in fields else 3, span)

    decoded = decode(tiff_of(pixels, fields, byte_order=byte_order, big=big, deflated=deflated))

    expected = stretched_luma(pixels[..., :3] if fields.get(338) == [0] else pixels)
    assert np.abs(decoded - expected).max() <= 1


def test_twelve_bits_of_gray_in_deep_colour_are_as_bright_as_in_gray():
    pixels = twelve_bits()

    decoded = decode(png_of(np.dstack([pixels] * 3), bits=16))

    assert np.array_equal(decoded, decode(png_of(pixels, bits=16)))


def test_deep_colour_is_turned_as_its_orientation_says():
    pixels = deep_colour(3, 65535)

    assert np.array_equal(decode(tiff_of(pixels, {274: [6]})), np.rot90(decode(tiff_of(pixels)), -1))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_interlaced_deep_colour_comes_out_as_it_does_in_rows(channels):
    pixels = deep_colour(channels, 65535)

    assert np.array_equal(decode(interlaced_png(pixels)), decode(png_of(pixels, bits=16)))


@pytest.mark.parametrize("before_pixels", [True, False])
def test_deep_colour_in_a_png_is_turned_as_its_orientation_says(before_pixels):
    whole = png_of(deep_colour(3, 65535), bits=16)
    place = 33 if before_pixels else len(whole) - 12
    exif = png_chunk(b"eXIf", struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, ORIENTATION, 3, 1, 6, 0, 0))

    assert np.array_equal(decode(whole[:place] + exif + whole[place:]), np.rot90(decode(whole), -1))


@pytest.mark.parametrize("chunk", [(b"gAMA", struct.pack(">I", 100_000)), (b"sBIT", bytes([10, 10, 10]))])
def test_gamma_and_significant_bits_leave_deep_colour_as_it_is(chunk):
    whole = png_of(deep_colour(3, 65535), bits=16)

    assert np.array_equal(decode(whole[:33] + png_chunk(*chunk) + whole[33:]), decode(whole))


def test_a_png_whose_pixels_are_whole_is_read_without_its_end_and_with_a_wrong_checksum():
    whole = png_of(deep_colour(3, 65535), bits=16)
    checksum = len(whole) - 16
    wrong = whole[:checksum] + bytes([whole[checksum] ^ 1]) + whole[checksum + 1 :]

    assert np.array_equal(decode(whole[:-12]), decode(whole))
    assert np.array_equal(decode(wrong), decode(whole))


@pytest.mark.parametrize("fields", [{284: [2]}, {284: [2], 338: [0]}, {262: [5]}, {338: [1]}])
@pytest.mark.parametrize("deflated", [False, True])
def test_deep_colour_in_a_form_that_pillow_does_not_give_both_bytes_of_is_unsupported(fields, deflated):
    pixels = deep_colour(4 if {338, 262} & fields.keys() else 3, 65535)

    with pytest.raises(FileFault, match="unsupported: colour or alpha of more than 8 bits"):
        decode(tiff_of(pixels, fields, deflated=deflated))


def test_deep_colour_with_a_colour_for_what_is_transparent_is_unsupported():
    data = png_of(deep_colour(3, 65535), bits=16)

    with pytest.raises(FileFault, match="unsupported: colour or alpha of more than 8 bits"):
        decode(data[:33] + png_chunk(b"tRNS", bytes(6)) + data[33:])


def test_half_an_image_of_deep_colour_is_truncated():
    assert reason_of(truncated(png_of(deep_colour(3, 65535), bits=16))) is Reason.TRUNCATED


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_more_than_one_frame_is_refused(file_format):
    first, second = Image.fromarray(GRAY), Image.fromarray(image_pixels(8))

    data = encoded(first, file_format, save_all=True, append_images=[second])

    assert reason_of(data) is Reason.MULTI_FRAME


def test_a_bomb_is_refused_by_its_header():
    assert reason_of(png_of_ten_gigapixels()) is Reason.TOO_MANY_PIXELS


def test_a_tile_is_held_against_the_cap_as_the_image_is():
    image = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 324: 8, 325: 8}

    assert reason_of(tiff_file({**image, 322: 16, 323: 16})) is Reason.CORRUPT
    assert reason_of(tiff_file({**image, 322: 100_000, 323: 100_000})) is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize(("byte_order", "big"), LAYOUTS, ids=LAYOUT_NAMES)
@pytest.mark.parametrize("tag", [273, 279, 324, 325, 320, 50000])
def test_a_field_of_a_million_numbers_is_refused_before_pillow_makes_objects_of_them(byte_order, big, tag):
    data = tiff_of(GRAY, {tag: np.ones(1_000_001)}, byte_order=byte_order, big=big)

    with pytest.raises(FileFault, match="corrupt: more than 1,000,000 numbers"):
        decode(data)
    assert pixel_count(data) == 0


@pytest.mark.parametrize(("byte_order", "big"), LAYOUTS, ids=LAYOUT_NAMES)
def test_numbers_in_an_exif_directory_count(byte_order, big):
    numbers = {37121: np.ones(999_980)}

    assert np.array_equal(decode(tiff_of(GRAY, exif=numbers, byte_order=byte_order, big=big)), GRAY)
    with pytest.raises(FileFault, match="corrupt: more than 1,000,000 numbers"):
        decode(tiff_of(GRAY, {50000: np.ones(1000)}, exif=numbers, byte_order=byte_order, big=big))


def test_a_field_that_the_file_is_too_short_for_does_not_lose_the_image():
    data = bytearray(tiff_of(GRAY, {50000: [7, 7, 7]}))
    entry = data.index(struct.pack("<HHI", 50000, 3, 3))
    data[entry + 4 : entry + 8] = b"\xff\xff\xff\xff"

    assert np.array_equal(decode(bytes(data)), GRAY)


def test_a_damaged_pointer_in_a_bigtiff_does_not_lose_the_image():
    data = bytearray(tiff_of(GRAY, exif={37121: [1]}, big=True))
    pointer = data.index(struct.pack("<HHQ", 34665, 4, 1)) + 12
    data[pointer : pointer + 4] = struct.pack("<I", 20)

    assert np.array_equal(decode(bytes(data)), GRAY)


def test_a_directory_of_more_fields_than_there_are_tags_is_corrupt():
    data = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 65_537) + bytes(20 * 65_537)

    with pytest.raises(FileFault, match="corrupt: more than 65,536 fields"):
        decode(data)


def test_strips_that_cover_the_image_again_and_again_are_refused():
    twice = [8, 8 + GRAY.size // 2]

    assert np.array_equal(decode(tiff_of(GRAY, {273: twice, 279: [240, 240], 278: [12]})), GRAY)
    with pytest.raises(FileFault, match="corrupt: more than 3,840 pixels in the strips"):
        decode(tiff_of(GRAY, {273: twice * 9, 279: [240] * 18, 278: [12]}))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (png(1), GRAY.size),
        (jpeg(1), GRAY.size),
        (encoded(Image.fromarray(GRAY), "TIFF"), GRAY.size),
        (png_of(np.zeros((24, 20, 3), np.uint16), bits=16), 2 * GRAY.size),
        (png_of_ten_gigapixels(), 100_000**2),
        (tiff_file({256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 322: 5000, 323: 5000, 324: 8, 325: 8}), 5000**2),
        (b"", 0),
        (b"image,label\n", 0),
        (b"\xff\xd8\xff", 0),
    ],
)
def test_a_header_tells_for_how_many_pixels_decoding_makes_room(data, count):
    assert pixel_count(data) == count


def test_the_cap_is_inclusive():
    assert decode(png(1), max_pixels=GRAY.size).shape == GRAY.shape
    assert reason_of(png(1), max_pixels=GRAY.size - 1) is Reason.TOO_MANY_PIXELS


def test_a_jpeg_that_decodes_the_image_again_and_again_is_refused_before_it_does():
    usual = jpeg_scanned_again(1, 0).count(b"\xff\xda")

    assert decode(jpeg_scanned_again(1, 100 - usual)).shape == image_pixels(1).shape
    with pytest.raises(FileFault, match="corrupt: more than 100 scans"):
        decode(jpeg_scanned_again(1, 101 - usual))


def test_an_end_within_a_comment_hides_no_scans():
    data = jpeg_scanned_again(1, 100)
    before, last = data[: data.rindex(b"\xff\xda")], data[data.rindex(b"\xff\xda") :]
    first_scan = before.index(b"\xff\xda")
    second_scan = before.index(b"\xff\xda", first_scan + 2)
    comment = b"\xff\xfe\x00\x04\xff\xd9"

    with pytest.raises(FileFault, match="more than 100 scans"):
        decode(before[:second_scan] + comment + before[second_scan:] + last)


@pytest.mark.parametrize(
    ("segment", "times", "most"),
    [(b"\xff\xe0\x00\x02", 10_000, 10_000), (b"\xff\xd9", 10_000, 10_000), (b"\xff\xe1\x00\x08Exif\x00\x00", 17, 16)],
)
def test_segments_that_pillow_would_keep_objects_for_are_bounded(segment, times, most):
    whole = jpeg(1)

    with pytest.raises(FileFault, match=f"corrupt: more than {most:,} "):
        decode(whole[:2] + segment * times + whole[2:])


def test_thumbnails_and_later_pictures_are_no_scans_of_the_first():
    whole, thumbnail = jpeg(1), jpeg_scanned_again(2, 200)
    segment = b"\xff\xe3" + (len(thumbnail) + 2).to_bytes(2) + thumbnail

    assert np.array_equal(decode(whole[:2] + segment + whole[2:] + thumbnail), decode(whole))


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (2**31 - 1, 1)])
def test_absurd_dimensions_are_faults(size):
    assert reason_of(png_file(*size, zlib.compress(b"\x00"))) in (Reason.CORRUPT, Reason.TOO_MANY_PIXELS)


SEEDS = [
    jpeg(1),
    png(1),
    png_of(twelve_bits(), bits=16),
    encoded(Image.fromarray(GRAY), "TIFF"),
    encoded(Image.fromarray(GRAY).convert("RGBA"), "TIFF", compression="tiff_lzw"),
    encoded(Image.fromarray(GRAY).convert("P"), "PNG"),
    encoded(Image.fromarray(GRAY), "PNG", save_all=True, append_images=[Image.fromarray(image_pixels(8))]),
]


@settings(deadline=None)
@given(st.sampled_from(SEEDS), st.integers(0, 2**32), st.integers(1, 12))
def test_mutated_bytes_give_an_image_or_a_fault(data, seed, changes):
    chance, mutated = random.Random(seed), bytearray(data)
    for _ in range(changes):
        place = chance.randrange(min(len(mutated), chance.choice([48, 4096])))
        mutated[place] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
    if chance.random() < 0.3:
        del mutated[chance.randrange(len(mutated)) :]
    outcome = gray_or_fault(bytes(mutated))
    if isinstance(outcome, FileFault):
        assert all(" " <= character <= "~" for character in outcome.detail)
    else:
        assert outcome.dtype == np.uint8
        assert outcome.ndim == 2
        assert outcome.size > 0


def test_decoding_in_threads_leaves_the_warning_filters_alone():
    before = list(warnings.filters)
    data = [jpeg(1), truncated(jpeg(2)), png_of_ten_gigapixels(), png(3)] * 20

    def decode_all() -> None:
        for item in data:
            gray_or_fault(item)

    threads = [threading.Thread(target=decode_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert warnings.filters == before


def test_a_tinted_jpeg_gives_its_luma():
    gray = np.add.outer(np.arange(64), np.arange(64))
    tinted = Image.fromarray(np.stack([gray + 40, gray + 60, gray + 90], -1).astype(np.uint8))
    data = encoded(tinted, "JPEG", quality=95)

    luma = np.asarray(Image.open(io.BytesIO(data)).convert("L"))

    assert np.abs(decode(data).astype(int) - luma).max() <= 2


def test_a_host_short_of_memory_is_not_taken_for_a_damaged_file(tmp_path):
    rows = zlib.compress(bytes(9001) * 9000)
    (tmp_path / "large.png").write_bytes(png_file(9000, 9000, rows))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from xray.images.decode import decode\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "limit = pages * resource.getpagesize() + 40_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n"
        "    decode(Path(sys.argv[1]).read_bytes())\n"
        "except MemoryError:\n"
        "    print('out of memory')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "large.png")], capture_output=True, text=True)

    assert done.stdout == "out of memory\n", done.stderr
