"""Plausibility: pictures that cannot be radiographs are refused, unusual radiographs are not."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.archives import png_of
from xray.errors import FileFault
from xray.images.decode import decode, decode_plausible, open_image
from xray.images.plausibility import check_plausible, looks_negative
from xray.images.preprocessing import Preprocessing, load
from xray.vocabulary import REASON_TEXT, Reason


def limb(height: int = 320, width: int = 260, noise: float = 12.0, tilt: float = 0.35) -> NDArray[np.uint16]:
    """Draw a limb with a bone, 12 bits: dark air, soft edges, texture, a detector's noise; uint16 (height, width)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    across = np.abs(x - 0.48 + tilt * (0.5 - y))
    grain = Image.fromarray(rng.normal(1, 0.1, (107, 87)).astype(np.float32)).resize((width, height))
    tissue = 1600 * np.asarray(grain) / (1 + np.exp((across - 0.17) * 60))
    bone = 1400 / (1 + np.exp((across - 0.07 - 0.04 * np.cos(5 * y)) * 90))
    values = 250 + 150 * x + tissue + bone + rng.normal(0, noise, (height, width))
    return np.clip(np.rint(values), 0, 4095).astype(np.uint16)


def gray_of(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Stretch values to gray, as a file of 16 bits is read."""
    low, high = np.percentile(values, (0.5, 99.5))
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def detail_of(gray: NDArray[np.uint8]) -> str:
    """Return why a picture is refused."""
    with pytest.raises(FileFault) as caught:
        check_plausible(gray)
    assert caught.value.reason is Reason.IMPLAUSIBLE
    return caught.value.detail


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width), np.uint8)


def with_text(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(gray)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"
    for line in range(2, 40, 11):
        draw.text((3, line), "HOSPITAL 12.04.2011 55 kV 3.2 mAs LEFT AP", 255)
    return np.asarray(image)


def collimated(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    framed = np.full_like(gray, 255)
    framed[30:-50, 20:-40] = gray[30:-50, 20:-40]
    return framed


def small_in_the_dark(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    field = np.zeros((gray.shape[0] * 4, gray.shape[1] * 4), np.uint8)
    field[200 : 200 + gray.shape[0], 100 : 100 + gray.shape[1]] = gray
    return field


def disc(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    return np.where((y - height / 2) ** 2 + (x - width / 2) ** 2 < min(height, width) ** 2 / 9, 200, 30).astype(
        np.uint8
    )


LIMB = gray_of(limb())

RADIOGRAPHS = {
    "as it is": LIMB,
    "a negative": 255 - LIMB,
    "lying": LIMB.T,
    "lying flat": gray_of(limb(128, 120, noise=2, tilt=0)).T,
    "thumbnail": gray_of(limb(128, 104)),
    "at the size of a detector": gray_of(limb(1300, 1050)),
    "low dose": gray_of(limb(noise=250)),
    "burnt-in text": with_text(LIMB),
    "dark text on a negative": 255 - with_text(LIMB),
    "white collimator": collimated(LIMB),
    "a twelfth of a dark field": small_in_the_dark(LIMB),
    "of two levels": np.where(LIMB > 100, 255, 0).astype(np.uint8),
    "faint": (LIMB // 6 + 90).astype(np.uint8),
    "a disc": disc(200, 200),
    "a slope along the rows": np.tile(np.arange(256, dtype=np.uint8), (200, 1)),
    "a slope down the columns": np.tile(np.arange(256, dtype=np.uint8), (200, 1)).T,
    "noise on too few pixels": noise(48, 300),
    "a line": np.zeros((1, 300), np.uint8),
}


@pytest.mark.parametrize("name", RADIOGRAPHS)
def test_unusual_radiographs_pass(name):
    check_plausible(RADIOGRAPHS[name])


def as_bytes(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    height, width = values.shape
    return np.frombuffer(values.tobytes(), np.uint8).reshape(height, 2 * width)[:, :width]


def starting_one_byte_late(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return gray_of(np.frombuffer(values.tobytes()[1:] + b"\0", np.uint16).reshape(values.shape))


NOISE = {
    "of one byte": noise(320, 260),
    "faint": noise(320, 260) // 4,
    "16 bits, bytes swapped": gray_of((limb() * 16 + limb() // 256).byteswap()),
    "12 bits, bytes swapped": gray_of(limb().byteswap()),
    "12 bits from one byte late": starting_one_byte_late(limb()),
    "16 bits of which 12 are stored": gray_of(limb() * 13 & 0xFFF),
    "16 bits read as 8": as_bytes(limb()),
    "16 bits read as 8 at the size of a detector": as_bytes(limb(1300, 1050)),
    "lower half": np.concatenate([LIMB[:160], noise(160, 260)]),
    "every other row from elsewhere": np.where(np.arange(320)[:, None] % 2 == 0, LIMB, np.roll(LIMB, 130, axis=1)),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_refused(name):
    assert "neighbouring pixels are unrelated" in detail_of(NOISE[name])


WRAPPED = {
    "11 bits of 12": gray_of(limb() & 0x7FF),
    "10 bits of 12": gray_of(limb() & 0x3FF),
    "unsigned read as signed": gray_of(limb() ^ 0x800),
    "gained too much": gray_of(limb() * 3 & 0xFFF),
    "at the size of a detector": gray_of(limb(1300, 1050) & 0x7FF),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_gray_levels_that_wrap_around_are_refused(name):
    assert "wrap around" in detail_of(WRAPPED[name])


def with_row_length(gray: NDArray[np.uint8], wrong: int) -> NDArray[np.uint8]:
    rows = gray.size // wrong
    return gray.ravel()[: rows * wrong].reshape(rows, wrong)


@pytest.mark.parametrize("error", [-30, -8, 8, 30])
@pytest.mark.parametrize("size", [(320, 260), (1300, 1050)])
def test_a_wrong_row_length_is_refused(size, error):
    height, width = size
    across = np.ascontiguousarray(gray_of(limb(width, height)).T)  # of a limb that lies, rows are much alike

    for gray in (gray_of(limb(height, width)), across):
        assert " row" in detail_of(with_row_length(gray, width + error))


def test_rows_that_are_shifted_at_random_are_refused():
    shifts = np.random.default_rng(2).integers(-20, 21, len(LIMB))

    shifted = np.stack([np.roll(row, shift) for row, shift in zip(LIMB, shifts, strict=True)])

    assert "rows are displaced" in detail_of(shifted)


@pytest.mark.parametrize(("level", "name"), [(0, "black"), (255, "white"), (117, "of one gray")])
@pytest.mark.parametrize("side", [16, 24, 300])
def test_a_blank_picture_is_refused_at_any_size(level, name, side):
    assert f"of the picture is {name}" in detail_of(np.full((side, side), level, np.uint8))


def test_a_picture_that_is_blank_but_for_a_marker_is_refused():
    gray = np.random.default_rng(3).integers(0, 9, (400, 400), np.uint8)
    gray[20:60, 20:60] = 150

    assert "98% of the picture is black" in detail_of(gray)


@pytest.mark.parametrize("row", [np.arange(9000) // 36, np.random.default_rng(4).integers(0, 256, 9000)])
def test_the_check_looks_at_no_more_of_a_huge_picture(row):
    huge = np.broadcast_to(row.astype(np.uint8), (9000, 9000))
    tracemalloc.start()
    try:
        check_plausible(huge)
    except FileFault:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 2_000_000


def test_an_implausible_file_can_be_decoded_but_not_loaded():
    gray = noise(120, 130)
    data = png_of(gray, bits=8)

    assert np.array_equal(decode(data), gray)
    for read in (decode_plausible, lambda image: load(image, Preprocessing(32, "pad"))):
        with pytest.raises(FileFault) as caught:
            read(open_image(data))
        assert caught.value.reason is Reason.IMPLAUSIBLE
    assert "cannot be a radiograph" in REASON_TEXT[Reason.IMPLAUSIBLE]


@pytest.mark.parametrize("size", [(128, 104), (320, 260), (1300, 1050)])
def test_bone_that_is_bright_or_dark_is_told_apart(size):
    gray = gray_of(limb(*size))

    assert looks_negative(gray) is False
    assert looks_negative(255 - gray) is True


@pytest.mark.parametrize(
    "gray",
    [
        collimated(LIMB),
        255 - collimated(LIMB),
        np.pad(255 - LIMB[20:-20, 20:-20], 20),
        np.full((200, 200), 255, np.uint8),
        noise(9, 9),
    ],
)
def test_a_picture_that_may_be_a_negative_or_not_is_left_undecided(gray):
    assert looks_negative(gray) is None
