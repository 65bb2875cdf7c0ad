"""DICOM files whose header says wrongly how the pixels are stored: compression, items, colour channels."""

import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid

from tests.dicoms import LOSSLESS, LOSSY, NATIVE, dicom, packed, phantom
from xray.errors import FileFault
from xray.images.dicom.codecs import inflate
from xray.images.dicom.codestream import JPEG_XL, read_frame
from xray.images.dicom.pixels import DicomImage
from xray.vocabulary import Reason, Repair

SMOOTH = np.add.outer(np.arange(48) * 40, np.arange(64) * 30).astype(np.uint16)
EIGHT = (SMOOTH >> 4).astype(np.uint8)
TINTED = np.stack([EIGHT, EIGHT - EIGHT // 16, EIGHT - EIGHT // 12], -1)
LUMA = np.asarray(Image.fromarray(TINTED).convert("L"))
YBR = np.stack([EIGHT, np.full_like(EIGHT, 120), np.full_like(EIGHT, 131)], -1)
SUBSAMPLED = np.stack([EIGHT[:, ::2], EIGHT[:, 1::2], YBR[:, ::2, 1], YBR[:, ::2, 2]], -1).tobytes()
PRIVATE = uid.UID("1.2.3.4.5.6")
LABELS = {**NATIVE, "private": PRIVATE, "mpeg": uid.MPEG2MPML, **{name: LOSSLESS[name][0] for name in LOSSLESS}}


def read(data: bytes) -> tuple[np.ndarray, tuple[Repair, ...]]:
    opened = DicomImage(data)
    assert opened.repairs == ()
    return opened.gray(100_000), opened.repairs


def reason_of(data: bytes) -> Reason:
    with pytest.raises(FileFault) as raised:
        read(data)
    return raised.value.reason


def item(data: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + len(data).to_bytes(4, "little") + data


def even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


NATIVELY, _ = read(dicom(SMOOTH))


@pytest.mark.parametrize("label", [label for label in LABELS if label not in ("big", "deflated")])
@pytest.mark.parametrize("name", LOSSLESS)
def test_compressed_pixels_are_decoded_by_what_they_are_and_not_by_their_label(name, label):
    syntax, encode = LOSSLESS[name]
    similar = {syntax, LABELS[label]} == {uid.JPEGLossless, uid.JPEGLosslessSV1} or (
        {syntax, LABELS[label]} == {uid.JPEG2000Lossless, uid.HTJ2KLossless}
    )

    gray, repairs = read(dicom(SMOOTH, LABELS[label], stream=encode(SMOOTH)))

    assert np.array_equal(gray, NATIVELY)
    assert repairs == (() if LABELS[label] == syntax or similar else (Repair.SYNTAX,))


@pytest.mark.parametrize("label", ["right", "explicit"])
@pytest.mark.parametrize("form", ["bare", "items", "items without an offset table"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_compressed_pixels_of_a_defined_length_are_decoded(name, form, label):
    syntax, encode = LOSSLESS[name]
    stream = even(encode(SMOOTH))
    raw = {"bare": stream, "items": item(b"") + item(stream[:64]) + item(stream[64:])}.get(form, item(stream))

    gray, repairs = read(dicom(SMOOTH, syntax if label == "right" else NATIVE["explicit"], raw=raw))

    assert np.array_equal(gray, NATIVELY)
    assert repairs == (Repair.SYNTAX,)


@pytest.mark.parametrize("label", ["private", "mpeg", *LOSSLESS])
def test_pixels_without_compression_are_read_though_their_label_is_of_a_compression(label):
    gray, repairs = read(dicom(SMOOTH, LABELS[label], raw=SMOOTH.tobytes()))

    assert np.array_equal(gray, NATIVELY)
    assert repairs == (Repair.SYNTAX,)


@pytest.mark.parametrize("label", ["explicit", "implicit", "private", "rle", "jpeg 2000"])
def test_pixels_without_compression_in_items_of_a_defined_length_do_not_begin_with_the_items(label):
    raw = item(b"") + item(SMOOTH.tobytes())

    gray, repairs = read(dicom(SMOOTH, LABELS[label], raw=raw))

    assert np.array_equal(gray, NATIVELY)
    assert repairs == (Repair.SYNTAX,)


@pytest.mark.parametrize(("label", "repairs"), [(uid.UID("1.2.840.10008.1.2.1.98"), ()), (PRIVATE, (Repair.SYNTAX,))])
def test_pixels_without_compression_in_items_are_read(label, repairs):
    gray, found = read(dicom(SMOOTH, label, stream=SMOOTH.tobytes()))

    assert np.array_equal(gray, NATIVELY)
    assert found == repairs


def test_a_deflated_frame_is_inflated_and_never_to_more_than_the_image():
    label = uid.UID("1.2.840.10008.1.2.8.1")
    deflated = zlib.compress(SMOOTH.tobytes() + bytes(2**24), wbits=-15)

    gray, repairs = read(dicom(SMOOTH, label, stream=even(deflated)))

    assert np.array_equal(gray, NATIVELY)
    assert repairs == ()
    assert inflate(deflated, SMOOTH.nbytes) == SMOOTH.tobytes()
    assert reason_of(dicom(SMOOTH, label, stream=even(deflated[:200]))) is Reason.TRUNCATED
    assert reason_of(dicom(SMOOTH, label, stream=b"\xff" * 64)) is Reason.CORRUPT


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_zeros_in_place_of_the_rest_of_a_codestream_are_no_picture(name, share):
    syntax, encode = {**LOSSLESS, **LOSSY}[name]
    pixels = phantom() if name != "jpeg baseline" else (phantom() // 16).astype(np.uint8)
    stream = encode(pixels)
    kept = stream[: round(share * len(stream))]

    assert reason_of(dicom(pixels, syntax, stream=kept.ljust(len(stream), b"\0"))) in (
        Reason.TRUNCATED,
        Reason.CORRUPT,
    )


def test_too_few_pixels_of_no_known_kind_have_a_reason():
    assert reason_of(dicom(SMOOTH, raw=bytes(64))) is Reason.TRUNCATED
    assert reason_of(dicom(SMOOTH, stream=bytes(64))) is Reason.CORRUPT
    assert reason_of(dicom(SMOOTH, PRIVATE, stream=bytes(64))) is Reason.UNSUPPORTED
    assert reason_of(dicom(SMOOTH, uid.JPEGBaseline8Bit, stream=bytes(64))) is Reason.CORRUPT


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
@pytest.mark.parametrize("colour", ["RGB", "YBR"])
def test_three_samples_a_pixel_are_full_sampling_whatever_the_word_says(colour, photometric, planar):
    pixels, expected = (TINTED, LUMA) if colour == "RGB" else (YBR, EIGHT)
    stored = np.ascontiguousarray(np.moveaxis(pixels, -1, 0)).reshape(pixels.shape) if planar else pixels

    gray, repairs = read(dicom(stored, PhotometricInterpretation=photometric, PlanarConfiguration=planar))

    assert np.array_equal(gray, expected)
    rightly = photometric == ("YBR_FULL" if colour == "YBR" else "RGB")
    assert repairs == (() if rightly else (Repair.SAMPLING,))


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
@pytest.mark.parametrize("colour", ["RGB", "YBR"])
@pytest.mark.parametrize("columns", [128, 127, 126])
def test_planes_and_pixels_are_told_apart_whatever_the_planar_configuration_says(columns, colour, photometric, planar):
    gray = (phantom()[:, :columns] // 16).astype(np.uint8)
    grey = np.full_like(gray, 128)
    pixels = np.stack([gray] * 3 if colour == "RGB" else [gray, grey, grey], -1)
    stored = pixels if planar else np.ascontiguousarray(np.moveaxis(pixels, -1, 0)).reshape(pixels.shape)

    found, repairs = read(dicom(stored, PhotometricInterpretation=photometric, PlanarConfiguration=planar))

    assert np.array_equal(found, gray)
    assert repairs == (Repair.SAMPLING,)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
def test_two_bytes_a_pixel_are_half_the_chroma(photometric):
    gray, repairs = read(dicom(YBR, PhotometricInterpretation=photometric, raw=SUBSAMPLED))

    assert np.array_equal(gray, EIGHT)
    assert repairs == (() if photometric == "YBR_FULL_422" else (Repair.SAMPLING,))


def test_half_the_chroma_of_an_odd_number_of_columns_ends_each_row_with_a_whole_pair():
    data = dicom(YBR[:, :63], PhotometricInterpretation="YBR_FULL_422", raw=SUBSAMPLED)

    assert np.array_equal(read(data)[0], EIGHT[:, :63])


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
def test_one_byte_a_pixel_is_gray(photometric):
    gray, repairs = read(dicom(YBR, PhotometricInterpretation=photometric, raw=EIGHT.tobytes()))

    assert np.array_equal(gray, EIGHT)
    assert repairs == (Repair.SAMPLING,)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.9])
def test_any_other_length_is_truncated_and_never_noise(photometric, share):
    raw = YBR.tobytes()[: round(YBR.size * share) // 2 * 2]

    assert reason_of(dicom(YBR, PhotometricInterpretation=photometric, raw=raw)) is Reason.TRUNCATED


@pytest.mark.parametrize("encode", [packed, LOSSLESS["jpeg 2000"][1], LOSSLESS["jpeg-ls"][1], LOSSLESS["jpeg xl"][1]])
@pytest.mark.parametrize(("photometric", "samples"), [("MONOCHROME2", 1), ("MONOCHROME1", 1), ("MONOCHROME2", 3)])
def test_colour_under_a_gray_label_becomes_luma(encode, photometric, samples):
    syntax = next(syntax for syntax, other in LOSSLESS.values() if other is encode)

    elements = {"PhotometricInterpretation": photometric, "SamplesPerPixel": samples}
    gray, repairs = read(dicom(TINTED, syntax, stream=encode(TINTED), **elements))

    assert np.array_equal(gray, 255 - LUMA if photometric == "MONOCHROME1" else LUMA)
    assert repairs == (() if samples == 3 else (Repair.SAMPLING,))


@pytest.mark.parametrize("encode", [packed, LOSSLESS["jpeg 2000"][1], LOSSLESS["jpeg-ls"][1]])
def test_gray_under_a_colour_label_is_read(encode):
    syntax = next(syntax for syntax, other in LOSSLESS.values() if other is encode)

    gray, repairs = read(dicom(TINTED, syntax, stream=encode(EIGHT)))

    assert np.array_equal(gray, EIGHT)
    assert repairs == (Repair.SAMPLING,)


def test_eight_bits_under_a_label_of_sixteen_are_read():
    gray, repairs = read(dicom(SMOOTH, raw=EIGHT.tobytes(), WindowCenter=128, WindowWidth=256))

    assert np.array_equal(gray, EIGHT)
    assert repairs == (Repair.BITS_STORED,)


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("shape", [(48, 64), (60, 60), (45, 80), (300, 17), (48, 64, 3)])
def test_a_jpeg_xl_header_tells_size_and_depth(shape, bits, container):
    pixels = np.zeros(shape, np.uint8 if bits == 8 else np.uint16)
    stream = imagecodecs.jpegxl_encode(pixels, lossless=True, bitspersample=bits, usecontainer=container)

    frame = read_frame(stream)

    samples = shape[2] if len(shape) == 3 else 1
    assert (frame.kind, frame.rows, frame.columns, frame.samples) == (JPEG_XL, *shape[:2], samples)
    assert frame.bits == bits


def test_jpeg_xl_that_is_lossy_or_cut_is_read_or_has_a_reason():
    label = LOSSLESS["jpeg xl"][0]
    stream = imagecodecs.jpegxl_encode(SMOOTH, level=95, bitspersample=12)

    gray, _ = read(dicom(SMOOTH, label, stream=even(stream), BitsStored=12))

    assert np.abs(gray.astype(int) - NATIVELY).max() <= 4
    for kept in (40, len(stream) // 2):
        assert reason_of(dicom(SMOOTH, label, stream=stream[:kept])) is Reason.TRUNCATED
    animated = imagecodecs.jpegxl_encode(np.stack([SMOOTH] * 2), lossless=True)
    assert reason_of(dicom(SMOOTH, label, stream=even(animated))) is Reason.UNSUPPORTED
    with_alpha = imagecodecs.jpegxl_encode(np.stack([EIGHT, EIGHT], -1), lossless=True)
    assert reason_of(dicom(EIGHT, label, stream=even(with_alpha))) is Reason.UNSUPPORTED


STREAMS = [encode(SMOOTH) for name, (_, encode) in LOSSLESS.items() if name in ("jpeg xl", "high-throughput jpeg 2000")]


@settings(max_examples=200, deadline=5000, derandomize=True)
@given(st.sampled_from(STREAMS), st.integers(2, 400), st.binary(min_size=1, max_size=4))
def test_a_damaged_codestream_is_decoded_or_has_a_reason(stream, place, damage):
    damaged = stream[:place] + damage + stream[place + len(damage) :]

    try:
        shape = read(dicom(SMOOTH, PRIVATE, stream=even(damaged)))[0].shape
    except FileFault:
        shape = SMOOTH.shape

    assert shape == SMOOTH.shape
