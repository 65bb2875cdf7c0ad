"""Resizing: within one gray level of Pillow's antialiased bilinear filter, at every size and for every pattern."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xray.images.resize import resize


def pillow(gray: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))


def patterns(height: int, width: int) -> list[np.ndarray]:
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width), np.uint8)
    checkerboard = (np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)
    return [noise, checkerboard, np.where(noise > 127, 255, 0).astype(np.uint8), np.full_like(noise, 255)]


@pytest.mark.parametrize(
    ("height", "width"), [(640, 512), (454, 373), (512, 421), (2304, 2880), (200, 4000), (100, 120), (1, 1), (1, 3000)]
)
def test_every_pattern_is_resized_within_one_level_of_pillow(height, width):
    for gray in patterns(height, width):
        difference = resize(gray, 224, 181).astype(int) - pillow(gray, 224, 181)

        assert np.abs(difference).max() <= 1


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 320), st.integers(1, 320))
def test_every_size_is_resized_within_one_level_of_pillow(height, width, new_height, new_width):
    for gray in patterns(height, width)[:2]:
        resized = resize(gray, new_height, new_width)

        assert resized.shape == (new_height, new_width)
        assert np.abs(resized.astype(int) - pillow(gray, new_height, new_width)).max() <= 1


def test_an_image_of_the_right_size_is_left_as_it_is():
    noise = patterns(224, 160)[0]

    assert np.array_equal(resize(noise, 224, 160), noise)


def test_the_band_that_is_converted_at_a_time_does_not_show(monkeypatch):
    noise = patterns(900, 1200)[0]
    whole = resize(noise, 100, 150)

    monkeypatch.setattr("xray.images.resize._BAND_BYTES", 4 * noise.size)

    assert np.array_equal(resize(noise, 100, 150), whole)
