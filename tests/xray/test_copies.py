"""Copies of a picture in other bytes."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from xray.copies import find_copies, reduced_picture
from xray.images.decode import decode
from xray.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing.from_id("gray8-pad-224-bilinear-1")


def radiograph(shift: int = 0, size: int = 640) -> Image.Image:
    """Draw a bone on a soft background, with the grain of a detector."""
    image = Image.new("L", (480, 640), 20)
    draw = ImageDraw.Draw(image)
    draw.ellipse((60 + shift, 20, 400 + shift, 620), fill=90)
    draw.rounded_rectangle((180 + shift, 60, 280 + shift, 580), 50, fill=200)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(4)), np.float64)
    grain = np.random.default_rng(1).normal(0, 4, blurred.shape)
    return Image.fromarray((blurred + grain).clip(0, 255).astype(np.uint8)).resize((size * 3 // 4, size))


def picture(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **{"format": "PNG", **options})
    return reduced_picture(PREPROCESSING.apply(decode(file.getvalue())))


@pytest.mark.parametrize(
    "copy",
    [
        picture(radiograph()),
        picture(radiograph(), format="JPEG", quality=30),
        picture(radiograph(), format="TIFF"),
        picture(radiograph(size=320)),
        picture(radiograph().point(lambda level: 5 + level * 0.96)),
    ],
    ids=["the same", "JPEG", "TIFF", "half the size", "without its tails"],
)
def test_a_copy_is_found_in_whatever_form_it_is_stored(copy: bytes) -> None:
    assert find_copies([picture(radiograph()), copy]) == [False, True]


def test_another_exposure_of_the_same_part_is_no_copy() -> None:
    assert find_copies([picture(radiograph()), picture(radiograph(shift=8))]) == [False, False]


def test_each_picture_is_compared_with_all_before_it() -> None:
    one, other = picture(radiograph()), picture(radiograph(shift=60))

    assert find_copies([one, other, None, other, one, None]) == [False, False, False, True, True, False]
    assert find_copies([]) == []


def test_pictures_of_one_sum_that_differ_in_places_are_no_copies() -> None:
    one = bytes([100, 200] * 128)

    assert find_copies([one, one[::-1]]) == [False, False]


def test_many_different_pictures_are_no_copies() -> None:
    pictures = [bytes(np.random.default_rng(number).integers(0, 256, 256, np.uint8)) for number in range(200)]

    assert not any(find_copies(pictures))
