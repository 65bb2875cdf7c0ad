"""The gray of images of more than 8 bits, in PNG, TIFF and DICOM: what sets it, and what must not."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom import uid

from tests.archives import png_of, tiff_of
from tests.dicoms import dicom, phantom
from xray.images.decode import decode
from xray.images.gray_range import value_range

PHANTOM = phantom()

FORMS = {
    "png": lambda pixels: png_of(pixels, bits=16),
    "png, colour": lambda pixels: png_of(np.dstack([pixels] * 3), bits=16),
    "tiff": tiff_of,
    "tiff, signed": lambda pixels: tiff_of((pixels.astype(np.int32) - 2**15).astype(np.int16)),
    "tiff, 32 bits": lambda pixels: tiff_of(pixels.astype(np.uint32) * 1000),
    "tiff, float": lambda pixels: tiff_of(pixels.astype(np.float32) / 100 - 7),
    "dicom": dicom,
    "dicom, signed": lambda pixels: dicom((pixels.astype(np.int32) - 2**15).astype(np.int16)),
    "dicom, rescaled": lambda pixels: dicom(pixels, RescaleSlope=0.5, RescaleIntercept=-1000),
    "dicom, falling": lambda pixels: dicom(
        65535 - pixels, RescaleSlope=-1, RescaleIntercept=65535, PhotometricInterpretation="MONOCHROME2"
    ),
}


def linear(pixels: np.ndarray) -> np.ndarray:
    """Compute the gray of a picture between its tails."""
    low, high = np.quantile(pixels, (0.005, 0.995), method="inverted_cdf")
    return np.rint(np.clip((pixels.astype(float) - low) / (high - low), 0, 1) * 255)


EXPECTED = linear(PHANTOM)


def with_box(pixels: np.ndarray, value: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Put a box of one value into a corner; return the picture, and where the box is not."""
    boxed, outside = pixels.copy(), np.ones(pixels.shape, np.bool_)
    outside[: round(160 * share**0.5), : round(128 * share**0.5)] = False
    boxed[~outside] = value
    return boxed, outside


def difference(found: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(found.astype(int) - EXPECTED)[where].mean())


@pytest.mark.parametrize("form", FORMS)
def test_every_format_cuts_the_same_tails(form):
    assert np.abs(decode(FORMS[form](PHANTOM)) - EXPECTED).max() <= 1


@pytest.mark.parametrize("value", [0, 65535])
@pytest.mark.parametrize("form", FORMS)
def test_a_hot_or_dead_pixel_does_not_set_the_range(form, value):
    pixels = PHANTOM.copy()
    pixels[20, 20] = value

    assert difference(decode(FORMS[form](pixels)), pixels == PHANTOM) < 1


@pytest.mark.parametrize("share", [0.001, 0.004, 0.01])
@pytest.mark.parametrize("form", FORMS)
def test_hot_pixels_all_over_the_image_do_not_set_the_range(form, share):
    is_hot = np.random.default_rng(5).random(PHANTOM.shape) < share
    pixels = np.where(is_hot, 65535, PHANTOM).astype(np.uint16)

    assert difference(decode(FORMS[form](pixels)), ~is_hot) < 3


@pytest.mark.parametrize("share", [0.005, 0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("value", [5000, 12000, 65535])
@pytest.mark.parametrize("form", FORMS)
def test_a_box_of_one_value_far_above_does_not_set_the_range_and_is_black(form, value, share):
    boxed, outside = with_box(PHANTOM, value, share)

    found = decode(FORMS[form](boxed))

    assert difference(found, outside) < 6
    assert not found[~outside].any()


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
@pytest.mark.parametrize("form", FORMS)
def test_a_box_far_below_does_not_set_the_range(form, share):
    boxed, outside = with_box(phantom(3000, 20000), 0, share)

    found = decode(FORMS[form](boxed))

    assert difference(found, outside) < 6
    assert not found[~outside].any()


@pytest.mark.parametrize("form", ["png", "tiff, float", "dicom"])
def test_boxes_at_both_ends_and_a_hot_pixel_are_left_out_together(form):
    boxed, outside = with_box(phantom(3000, 20000), 65535, 0.1)
    boxed[-20:], outside[-20:] = 0, False
    boxed[70, 120] = 50000

    assert difference(decode(FORMS[form](boxed)), outside) < 6


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("level", [70, 80, 95])
@pytest.mark.parametrize("share", [0.005, 0.02, 0.1])
def test_the_smeared_edge_of_a_box_in_a_lossy_image_does_not_set_the_range(share, level, photometric):
    pixels = PHANTOM if photometric == "MONOCHROME2" else 4095 - PHANTOM
    boxed, outside = with_box(pixels, 4095 * (photometric == "MONOCHROME2"), share)
    boxed[~outside] = 12000
    stream = imagecodecs.jpeg2k_encode(boxed, codecformat="j2k", level=level, reversible=False)

    found = decode(dicom(boxed, uid.JPEG2000, stream=stream, PhotometricInterpretation=photometric))

    assert difference(found, outside) < 8


def test_a_border_without_exposure_leaves_the_anatomy_its_gray():
    pixels = phantom(3000, 4000)
    mask = Image.new("1", (128, 160))
    ImageDraw.Draw(mask).polygon([(10, 20), (110, 5), (125, 150), (20, 155)], fill=1)
    exposed = np.asarray(mask)
    framed = np.where(exposed, pixels, 0).astype(np.uint16)

    found = decode(png_of(framed, bits=16))

    assert difference(found, exposed) < 10
    assert not found[~exposed].any()


def test_letters_far_above_stay_white_but_do_not_set_the_range():
    letters = Image.new("1", (128, 160))
    ImageDraw.Draw(letters).text((4, 4), "L  12:30  AP  75 kV", fill=1)
    mask = np.asarray(letters)
    marked = np.where(mask, 65535, PHANTOM).astype(np.uint16)

    found = decode(png_of(marked, bits=16))

    assert difference(found, ~mask) < 6
    assert (found[mask] == 255).all()


@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("form", FORMS)
def test_a_box_takes_at_most_an_eighth_of_the_gray(form, share):
    gap = 0.15 * float(np.ptp(np.quantile(PHANTOM, (0.005, 0.995))))
    boxed, outside = with_box(PHANTOM, int(PHANTOM.max() + gap), share)

    assert difference(decode(FORMS[form](boxed)), outside) < 2


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_a_box_that_is_near_to_the_picture_leaves_the_range_as_it_is(share):
    boxed, _ = with_box(PHANTOM, int(PHANTOM.max()) + 100, share)

    assert np.array_equal(decode(png_of(boxed, bits=16)), linear(boxed))


@pytest.mark.parametrize("gamma", [0.4, 1, 2.5])
def test_bright_bone_in_a_dark_picture_is_no_marker(gamma):
    # Two percent of bone, far brighter than the rest but not of one value.
    small = np.pad((PHANTOM[40:80, 30:90] / 3200.0) ** gamma * 3000, ((60, 60), (120, 120)), constant_values=30)
    noisy = np.rint(small + np.random.default_rng(3).normal(0, 12, small.shape)).clip(0).astype(np.uint16)

    found = value_range(noisy, np.arange(2.0**16))

    assert (found.low, found.high) == tuple(np.quantile(noisy, (0.005, 0.995), method="inverted_cdf"))


def test_an_image_of_two_values_is_black_and_white():
    assert np.unique(decode(png_of(np.where(PHANTOM > 1500, 40000, 7).astype(np.uint16), bits=16))).tolist() == [0, 255]


def test_eight_bits_are_the_gray_whatever_lies_far_apart():
    eight = phantom(60, 0, np.uint8)
    boxed, _ = with_box(eight, 255, 0.1)
    with io.BytesIO() as file:
        Image.fromarray(boxed).save(file, "PNG")
        png = file.getvalue()

    assert np.array_equal(decode(png), boxed)
    assert np.array_equal(decode(dicom(boxed)), boxed)
