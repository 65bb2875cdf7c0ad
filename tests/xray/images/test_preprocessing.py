"""Preprocessing: how a decoded image fits into the network's square."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.archives import image_pixels, png
from xray.errors import PackageError
from xray.images.decode import open_image
from xray.images.preprocessing import Preprocessing, load


@pytest.mark.parametrize("text", ["gray8-pad-224-bilinear-1", "gray8-squash-320-bilinear-1"])
def test_an_id_is_read_back_as_it_was_written(text):
    assert Preprocessing.from_id(text).id == text


@pytest.mark.parametrize(
    "text",
    ["", "gray8-pad-224-bilinear-2", "gray8-crop-224-bilinear-1", "gray8-pad-0-bilinear-1"],
)
def test_an_unknown_id_is_refused(text):
    with pytest.raises(PackageError, match="update bonescreen"):
        Preprocessing.from_id(text)


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(10, 512))
def test_a_padded_image_is_centred_and_keeps_its_proportions(height, width, size):
    top, left, h, w = Preprocessing(size, "pad").image_box(height, width)

    assert max(h, w) == size
    assert abs(top - (size - h - top)) <= 1
    assert abs(left - (size - w - left)) <= 1
    assert abs(h * max(height, width) - height * size) <= max(height, width)


def test_padding_is_black_and_the_image_is_in_its_box():
    preprocessing = Preprocessing(64, "pad")
    bright = np.full((100, 50), 200, np.uint8)

    square = preprocessing.apply(bright)

    top, left, height, width = preprocessing.image_box(100, 50)
    inside = square[top : top + height, left : left + width]
    assert square.shape == (64, 64)
    assert (inside == 200).all()
    assert int(square.sum()) == int(inside.sum())


def test_squashing_fills_the_square():
    assert (Preprocessing(64, "squash").apply(np.full((100, 50), 200, np.uint8)) == 200).all()


def test_reduction_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))

    reduced = Preprocessing(32, "squash").apply(stripes)

    assert np.abs(reduced.astype(int) - 128).max() <= 8


def test_loading_is_decoding_and_fitting():
    preprocessing = Preprocessing(32, "pad")

    assert np.array_equal(load(open_image(png(5)), preprocessing), preprocessing.apply(image_pixels(5)))
