"""DICOM's grayscale transformations: every step, with expected values computed by hand."""

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing
from pydicom.sequence import Sequence

from tests.dicoms import data_set, dicom, phantom
from xray.errors import FileFault
from xray.images.decode import decode, open_image
from xray.vocabulary import Reason, Repair

WIDE = {"WindowCenter": 128, "WindowWidth": 256}
"""A window that maps 0..255 onto itself: (x - 127.5) / 255 + 0.5."""


def row(values: list[int], dtype: type = np.uint16) -> np.ndarray:
    return np.array([values], dtype)


def gray(values: list[int], dtype: type = np.uint16, **elements: object) -> list[int]:
    return decode(dicom(row(values, dtype), **elements))[0].tolist()


def lut(first: int, entries: list[int], bits: int, explanation: str = "") -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US" if first >= 0 else "SS", [len(entries), first, bits])
    item.LUTExplanation = explanation
    item.add_new(0x00283006, "OW", np.array(entries, "<u2").tobytes())
    return item


def test_a_window_maps_its_ends_to_black_and_white():
    # C.11.2.1.2.1 with c = 100, w = 51: black up to 74.5, white above 124.5, ((x - 99.5) / 50 + 0.5) * 255 between.
    found = gray([0, 74, 75, 99, 100, 124, 125, 999], WindowCenter=100, WindowWidth=51)

    assert found == [
        0,
        0,
        3,
        125,
        130,
        252,
        255,
        255,
    ]


def test_an_exact_window_is_symmetrical_about_its_centre():
    # C.11.2.1.3.2 with c = 100, w = 50: (x - 100) / 50 + 0.5.
    elements = {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "LINEAR_EXACT"}

    assert gray([74, 75, 100, 120, 125, 200], **elements) == [0, 0, 128, 230, 255, 255]


def test_a_sigmoid_is_half_at_its_centre():
    # C.11.2.1.3.1: 255 / (1 + exp(-4 (x - 100) / 50)).
    elements = {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "SIGMOID"}

    assert gray([0, 75, 100, 125, 200], **elements) == [0, 30, 128, 225, 255]


def test_a_window_of_width_one_is_a_threshold():
    assert gray([99, 100, 101], WindowCenter=100.5, WindowWidth=1) == [0, 0, 255]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicom_s(function):
    pixels = np.linspace(400, 1600, 4096).astype(np.uint16).reshape(64, 64)
    elements = {"BitsStored": 12, "WindowCenter": 1000.5, "WindowWidth": 900, "VOILUTFunction": function}

    theirs = apply_windowing(pixels, data_set(pixels, **elements)) / 4095 * 255

    assert np.abs(decode(dicom(pixels, **elements)) - theirs).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("explanations", "chosen"),
    [(None, [0, 128, 255]), (["HARDER", "Normal"], [0, 0, 0]), (["BONE", "SOFT"], [0, 128, 255])],
)
def test_of_several_windows_the_normal_one_is_taken_else_the_first(explanations, chosen):
    values = [0, 100, 200] + [500, 1000] * 25
    elements = {"WindowCenter": [100, 750], "WindowWidth": [200, 502], "WindowCenterWidthExplanation": explanations}

    assert gray(values, VOILUTFunction="LINEAR_EXACT", **elements)[:3] == chosen


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": 30000, "WindowWidth": 10},
        {"WindowCenter": 500, "WindowWidth": 0},
        {"WindowCenter": 32768, "WindowWidth": 65536},
        {"WindowCenter": "NaN", "WindowWidth": "100"},
        {"WindowCenter": 500},
    ],
    ids=["none", "beside the image", "no width", "too wide", "no number", "no width at all"],
)
def test_without_a_usable_window_the_image_is_stretched(window):
    # Of 1000 pixels the 5 least and greatest are beyond black and white.
    values = [0] * 4 + list(range(1000, 1992)) + [9000] * 4
    data = dicom(row(values), **{key: value for key, value in window.items() if value != "NaN"})
    if "NaN" in window.values():
        data = dicom(row(values), WindowCenter=111, WindowWidth=100).replace(b"111 ", b"NaN ")

    stretched = decode(data)[0]

    assert stretched[:4].tolist() == [0] * 4
    assert stretched[-4:].tolist() == [255] * 4
    assert (stretched[4], stretched[500], stretched[995]) == (0, 128, 255)


def test_eight_bits_without_a_window_are_the_gray():
    assert gray([0, 3, 100, 255], np.uint8) == [0, 3, 100, 255]


def test_an_image_of_one_value_is_black():
    assert gray([700, 700, 700]) == [0, 0, 0]


@pytest.mark.parametrize("contrasting", [0, 8, 40, 400])
@pytest.mark.parametrize("padding", [{}, {"PixelPaddingValue": 700}])
def test_where_the_contrast_lies_does_not_matter_for_whether_a_window_is_right(contrasting, padding):
    # All rows in which there is any contrast are counted first, or last.
    pixels = np.full((400, 50), 700, np.uint16)
    pixels[np.argsort(np.arange(400) % 8, kind="stable")[:contrasting]] = np.arange(50) * 20
    order = np.argsort(-(np.arange(400) % 8), kind="stable")
    elements = {"WindowCenter": 512, "WindowWidth": 1024, **padding}

    decoded = decode(dicom(pixels, **elements))

    assert np.array_equal(decode(dicom(np.ascontiguousarray(pixels[order]), **elements)), decoded[order])


def test_rescale_comes_before_the_window():
    assert gray([0, 50, 100], RescaleSlope=2, RescaleIntercept=10, **WIDE) == [10, 110, 210]


def test_a_negative_slope_inverts_the_image():
    assert gray([0, 100, 255], RescaleSlope=-1, RescaleIntercept=255, **WIDE) == [255, 155, 0]


def test_a_slope_of_zero_is_ignored():
    assert gray([0, 100, 255], RescaleSlope=0, RescaleIntercept=5, **WIDE) == [0, 100, 255]


def test_a_modality_lut_is_applied_before_the_window_and_instead_of_rescale():
    table = Sequence([lut(10, [200, 100, 50], 8)])

    # Values below the first and above the last mapped one get the ends of the table.
    assert gray([0, 10, 11, 12, 99], ModalityLUTSequence=table, RescaleSlope=7, RescaleIntercept=0, **WIDE) == [
        200, 200, 100, 50, 50,
    ]  # fmt: skip


def test_a_voi_lut_is_applied_instead_of_the_window():
    table = Sequence([lut(100, [0, 4095, 1024], 12)])

    assert gray([0, 100, 101, 102, 200], VOILUTSequence=table, **WIDE) == [0, 0, 255, 64, 64]


def test_a_lut_s_first_value_is_signed_if_values_are():
    table = Sequence([lut(-2, [0, 64, 128, 255], 8)])

    assert gray([-5, -2, -1, 0, 1], np.int16, VOILUTSequence=table) == [0, 0, 64, 128, 255]


def test_a_lut_with_too_few_bits_is_not_clipped():
    table = Sequence([lut(0, [0, 2048, 4095], 8)])

    assert gray([0, 1, 2], VOILUTSequence=table) == [0, 128, 255]


def test_of_several_luts_the_normal_one_is_taken():
    tables = Sequence([lut(0, [255, 0, 0], 8, "HARDER"), lut(0, [0, 100, 255], 8, "NORMAL")])

    assert gray([0, 1, 2], VOILUTSequence=tables) == [0, 100, 255]


@pytest.mark.parametrize("missing", [1, 500, 1000])
def test_beyond_the_entries_that_a_lut_has_its_last_one_counts(missing):
    table = lut(0, list(range(0, 4 * (4096 - missing), 4)), 14)
    table.LUTDescriptor = [4096, 0, 14]

    found = decode(dicom(PHANTOM, BitsStored=12, VOILUTSequence=Sequence([table])))

    last = 4095 - missing
    assert np.array_equal(found, np.rint(np.minimum(PHANTOM, last) / last * 255))


def test_a_lut_without_entries_is_ignored():
    table = lut(0, [], 8)
    table.LUTDescriptor = [300, 0, 8]

    assert gray([0, 100, 255], VOILUTSequence=Sequence([table]), **WIDE) == [0, 100, 255]


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        # C.8.11.3 forbids these two: viewers go by the photometric interpretation.
        ("MONOCHROME2", "INVERSE", False),
        ("MONOCHROME1", "IDENTITY", True),
    ],
)
def test_an_image_is_inverted_once_or_not_at_all(photometric, shape, inverted):
    expected = [255, 155, 0] if inverted else [0, 100, 255]

    assert gray([0, 100, 255], PhotometricInterpretation=photometric, PresentationLUTShape=shape, **WIDE) == expected


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(photometric):
    values = [5000] * 900 + list(range(100, 200)) + [5001]
    elements = {"PixelPaddingValue": 5000, "PixelPaddingRangeLimit": 5002, "PhotometricInterpretation": photometric}

    found = gray(values, **elements)

    assert found[:900] == [0] * 900
    assert found[-1] == 0
    assert {found[900], found[-2]} == {0, 255}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_that_twelve_bits_cannot_hold_is_compared_with_all_bits_allocated(photometric):
    # Masked to twelve bits it would be 4095, the brightest bone or the darkest air.
    elements = {"BitsStored": 12, "PixelPaddingValue": 0xFFFF, "PhotometricInterpretation": photometric}

    found = gray([0xFFFF] * 900 + list(range(100, 200)), **elements)

    assert found[:900] == [0] * 900
    assert {found[900], found[-1]} == {0, 255}


def test_padding_is_a_stored_value_not_a_rescaled_one():
    elements = {"PixelPaddingValue": -100, "RescaleSlope": 1, "RescaleIntercept": 100, **WIDE}

    assert gray([-100, 0, 155], np.int16, PhotometricInterpretation="MONOCHROME1", **elements) == [0, 155, 0]


def test_an_image_that_is_all_padding_is_decoded():
    elements = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 65535, **WIDE}

    assert gray([0, 100, 255], **elements) == [0, 100, 255]


def test_bits_that_are_not_stored_are_masked():
    # 10 bits stored at high bit 11: two bits below, four above.
    cells = [value << 2 | 0b1111_0000_0000_0011 & (0xF003) for value in (0, 100, 255)]

    assert gray(cells, BitsStored=10, HighBit=11, **WIDE) == [0, 100, 255]


def test_signed_values_of_twelve_bits_keep_their_sign():
    cells = [value & 0xFFF for value in (-128, 0, 127)]

    data = {"BitsStored": 12, "PixelRepresentation": 1, "RescaleIntercept": 128, "RescaleSlope": 1, **WIDE}
    assert gray(cells, **data) == [0, 128, 255]


@pytest.mark.parametrize(
    ("elements", "shape"),
    [
        ({"PixelAspectRatio": [2, 1]}, (40, 30)),
        ({"PixelAspectRatio": [1, 2]}, (20, 60)),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (40, 30)),
        ({"PixelSpacing": [0.1, 0.2]}, (20, 60)),
        ({"PixelAspectRatio": [1, 1], "PixelSpacing": [0.1, 0.2]}, (40, 60)),
        ({"PixelSpacing": [1.2, 1.2011]}, (40, 60)),
        ({"PixelAspectRatio": [50, 1]}, (40, 60)),
        ({"PixelAspectRatio": [0, 1]}, (40, 60)),
    ],
)
def test_pixels_are_made_square_and_no_image_grows(elements, shape):
    pixels = np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))

    found = decode(dicom(pixels, **elements))

    assert found.shape == shape
    assert abs(int(found[0, -1]) - 236) <= 4


@pytest.mark.parametrize(
    ("elements", "reason", "detail"),
    [
        ({"BitsAllocated": 32}, Reason.UNSUPPORTED, "32 bits allocated"),
        ({"BitsStored": 1, "HighBit": 0}, Reason.UNSUPPORTED, "1 bits stored"),
        ({"Rows": 0}, Reason.CORRUPT, "the header has no rows or columns"),
        ({"Rows": 100}, Reason.TRUNCATED, "fewer pixels than rows x columns"),
        ({"SamplesPerPixel": 4}, Reason.UNSUPPORTED, "4 samples a pixel"),
        ({"PhotometricInterpretation": "HSV"}, Reason.UNSUPPORTED, "the photometric interpretation is not supported"),
        ({"PhotometricInterpretation": None}, Reason.UNSUPPORTED, "the photometric interpretation is not supported"),
    ],
)
def test_an_image_that_cannot_be_decoded_has_a_precise_reason(elements, reason, detail):
    with pytest.raises(FileFault) as raised:
        decode(dicom(row([1, 2, 3]), **elements))

    assert (raised.value.reason, raised.value.detail) == (reason, detail)


def test_floating_point_pixels_are_unsupported():
    data = dicom(row([1, 2, 3, 4]))
    floats = data.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x08\x00OF")

    with pytest.raises(FileFault) as raised:
        decode(floats)

    assert (raised.value.reason, raised.value.detail) == (Reason.UNSUPPORTED, "floating-point pixels")


def test_too_many_pixels_are_refused_before_they_are_read():
    data = dicom(row([1, 2, 3]), Rows=60000, Columns=60000)

    with pytest.raises(FileFault) as raised:
        decode(data)

    assert raised.value.reason is Reason.TOO_MANY_PIXELS


def test_an_unsupported_transfer_syntax_is_named():
    with pytest.raises(FileFault) as raised:
        decode(dicom(row([1, 2, 3, 4]), uid.MPEG2MPML, stream=b"\0\0\1"))

    assert raised.value.detail == f"the transfer syntax {uid.MPEG2MPML.name}"


PHANTOM = phantom(3600, 300)
PLAIN = decode(dicom(PHANTOM))


def repaired(pixels: np.ndarray, **elements: object) -> tuple[np.ndarray, tuple[Repair, ...]]:
    opened = open_image(dicom(pixels, **elements))
    return opened.gray(1_000_000), opened.repairs


def window(low: float, high: float) -> dict[str, float]:
    return {"WindowCenter": round((low + high) / 2, 1), "WindowWidth": round(high - low, 1)}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 127, "WindowWidth": 255},
        {"WindowCenter": 40, "WindowWidth": 400},
        {"WindowCenter": 30000, "WindowWidth": 4000},
        {"WindowCenter": -2000, "WindowWidth": 4096},
        {"WindowCenter": 8192, "WindowWidth": 16384},
        {"WindowCenter": 32768, "WindowWidth": 65536},
        {"WindowCenter": 127, "WindowWidth": 255, "VOILUTFunction": "SIGMOID"},
        {"RescaleSlope": 0.001, "RescaleIntercept": 0, "WindowCenter": 40, "WindowWidth": 400},
        {"VOILUTSequence": Sequence([lut(0, list(range(256)), 8)])},
    ],
    ids=["8 bits", "CT", "above", "below", "14 bits", "16 bits", "sigmoid", "rescaled", "LUT of 8 bits"],
)
def test_a_window_that_is_not_this_image_s_is_left_and_said(elements, photometric):
    gray, repairs = repaired(PHANTOM, PhotometricInterpretation=photometric, **elements)

    assert np.abs(gray.astype(int) - (255 - PLAIN if photometric == "MONOCHROME1" else PLAIN)).max() <= 1
    assert repairs == (Repair.WINDOW,)


@pytest.mark.parametrize("width", [60, 120, 240])
@pytest.mark.parametrize("side", [128, 256, 640])
def test_a_narrow_window_on_a_slope_is_not_the_image_s_however_small_that_is(side, width):
    y, x = np.mgrid[:side, :side] / side - 0.5
    ridge = 200 + 2700 * np.exp(-((x / 0.15) ** 2) - (y / 0.4) ** 2)
    pixels = np.rint(ridge + np.random.default_rng(2).normal(0, 5, ridge.shape)).astype(np.uint16)

    found, repairs = repaired(pixels, BitsStored=12, WindowCenter=1150, WindowWidth=width)

    assert repairs == (Repair.WINDOW,)
    assert np.array_equal(found, decode(dicom(pixels, BitsStored=12)))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("background", [0.2, 0.5, 0.8])
def test_a_window_that_clips_a_large_background_is_kept(background, photometric):
    # Direct exposure around the limb, with noise and a gradient, all of it beyond the window.
    wide = np.pad(PHANTOM, round(40 + 300 * background**3), mode="edge").astype(float)
    exposed = np.pad(np.ones(PHANTOM.shape, np.bool_), (wide.shape[0] - PHANTOM.shape[0]) // 2)
    noise = np.random.default_rng(1).normal(0, 12, wide.shape)
    wide[~exposed] = (200 + np.linspace(0, 150, wide.shape[1])[None] + noise)[~exposed]
    pixels = np.rint(wide).astype(np.uint16)
    low, high = np.quantile(PHANTOM, (0.3, 0.999))
    if photometric == "MONOCHROME1":
        pixels, low, high = 4095 - pixels, 4095 - high, 4095 - low

    gray, repairs = repaired(pixels, BitsStored=12, PhotometricInterpretation=photometric, **window(low, high))

    assert repairs == ()
    expected = np.clip((pixels - low) / (high - low), 0, 1) * 255
    assert np.abs(gray - (255 - expected if photometric == "MONOCHROME1" else expected)).mean() < 1


@pytest.mark.parametrize(("low", "high"), [(0, 4096), (300, 3900), (800, 3800), (300, 3300)])
def test_a_window_that_shows_the_picture_is_kept(low, high):
    assert repaired(PHANTOM, BitsStored=12, **window(low, high))[1] == ()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_window_may_clip_more_of_the_dark_than_of_the_bright(photometric):
    inverted = photometric == "MONOCHROME1"
    pixels = 4095 - PHANTOM if inverted else PHANTOM
    dark, bright = np.quantile(PHANTOM, (0.7, 0.8))

    def repairs(low: float, high: float) -> tuple[Repair, ...]:
        ends = (4095 - high, 4095 - low) if inverted else (low, high)
        return repaired(pixels, BitsStored=12, PhotometricInterpretation=photometric, **window(*ends))[1]

    assert repairs(dark, 3900) == ()
    assert repairs(300, bright) == (Repair.WINDOW,)


def test_of_several_windows_one_that_fits_is_taken_where_the_first_does_not():
    elements = {"WindowCenter": [127, 2048], "WindowWidth": [255, 4096]}

    gray, repairs = repaired(PHANTOM, BitsStored=12, **elements)

    assert np.abs(gray - PHANTOM / 4095 * 255).max() <= 1
    assert repairs == (Repair.WINDOW,)


def test_a_window_of_the_stored_values_is_taken_where_it_does_not_fit_the_rescaled_ones():
    rescale = {"RescaleSlope": 0.001, "RescaleIntercept": -5}

    gray, repairs = repaired(PHANTOM, WindowCenter=2048, WindowWidth=4096, **rescale)

    assert np.abs(gray - PHANTOM / 4095 * 255).max() <= 1
    assert repairs == (Repair.WINDOW,)


def test_eight_bits_under_a_window_of_more_are_the_gray():
    eight = (PHANTOM >> 4).astype(np.uint8)

    gray, repairs = repaired(eight, WindowCenter=2048, WindowWidth=4096)

    assert np.array_equal(gray, eight)
    assert repairs == (Repair.WINDOW,)


@pytest.mark.parametrize("said", [8, 10, 12, 14, 15, 16, 0, 99])
@pytest.mark.parametrize("bits", [10, 12, 14, 15, 16])
def test_the_brightest_entry_of_a_lut_is_white_whatever_its_descriptor_says(bits, said):
    entries = (np.linspace(0, 1, 4096) ** 0.7 * (2**bits - 1)).astype(int).tolist()

    gray, repairs = repaired(PHANTOM, BitsStored=12, VOILUTSequence=Sequence([lut(0, entries, said)]))

    assert np.abs(gray - np.array(entries)[PHANTOM] / max(entries) * 255).max() <= 0.5 + 1e-9
    assert repairs == ()


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_entries_of_eight_bits_may_share_a_word(syntax):
    table = lut(0, [], 8)
    table.LUTDescriptor = [4096, 0, 8]
    entries = np.arange(4096) // 16 ^ np.arange(4096) % 2
    packed = entries.astype(np.uint8)
    table[0x00283006].value = (packed.reshape(-1, 2)[:, ::-1] if syntax.is_little_endian is False else packed).tobytes()

    found = decode(dicom(PHANTOM, syntax, BitsStored=12, VOILUTSequence=Sequence([table])))

    assert np.array_equal(found, entries[PHANTOM])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE", None])
def test_a_presentation_shape_that_contradicts_the_photometric_interpretation_is_said(photometric, shape):
    _, repairs = repaired(PHANTOM, PhotometricInterpretation=photometric, PresentationLUTShape=shape)

    rightly = shape in (None, "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY")
    assert repairs == (() if rightly else (Repair.CONTRADICTION,))


# A limb across the image, so that air is at each side.
TILTED = np.array([np.roll(row, number // 2) for number, row in enumerate(np.pad(PHANTOM, ((0, 0), (50, 50)), "edge"))])


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")])
@pytest.mark.parametrize("stored", [TILTED, 4000 - TILTED], ids=["bone high", "bone low"])
def test_where_the_header_contradicts_itself_and_the_picture_is_clear_bone_is_bright(photometric, shape, stored):
    gray, _ = repaired(stored, BitsStored=12, PhotometricInterpretation=photometric, PresentationLUTShape=shape)

    assert np.corrcoef(gray.ravel(), TILTED.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_header_that_does_not_contradict_itself_is_believed_whatever_the_picture_shows(photometric):
    gray, _ = repaired(PHANTOM, BitsStored=12, PhotometricInterpretation=photometric)

    assert np.sign(np.corrcoef(gray.ravel(), PHANTOM.ravel())[0, 1]) == (1 if photometric == "MONOCHROME2" else -1)


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")])
def test_where_the_picture_is_in_doubt_the_photometric_interpretation_decides(photometric, shape):
    ramp = np.tile(np.linspace(0, 4095, 128).astype(np.uint16), (160, 1))

    gray, _ = repaired(ramp, BitsStored=12, PhotometricInterpretation=photometric, PresentationLUTShape=shape)

    assert (gray[0, -1] > gray[0, 0]) == (photometric == "MONOCHROME2")
