"""Headers that lie about the bits, the sign or the byte order of the pixels: neighbouring pixels tell."""

import imagecodecs
import numpy as np
import pytest
from pydicom import uid

from tests.dicoms import CODECS_OF_ALL_BITS, dicom, phantom
from tests.xray.images.test_dicom_labels import read
from xray.vocabulary import Repair

PHANTOM = phantom(3600, 300)
DEEP = phantom(60000, 2000)
SIGNED = phantom(3600, -1500, np.int16)
EXPECTED = read(dicom(PHANTOM))[0]
REPAIRED = {
    "bits": (Repair.BITS_STORED,),
    "sign": (Repair.SIGN,),
    "order": (Repair.BYTE_ORDER,),
}


def mean_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(int) - expected).mean())


@pytest.mark.parametrize("stored", [10, 12, 14, 15])
@pytest.mark.parametrize("name", ["native", *CODECS_OF_ALL_BITS])
def test_bits_beyond_those_stored_are_used_where_they_hold_picture(name, stored):
    syntax, encode = CODECS_OF_ALL_BITS.get(name, (uid.ExplicitVRLittleEndian, lambda _: None))

    gray, repairs = read(dicom(DEEP, syntax, stream=encode(DEEP), BitsStored=stored))

    assert mean_difference(gray, read(dicom(DEEP))[0]) < 1
    assert repairs == (Repair.BITS_STORED,)


def test_a_few_bright_pixels_beyond_the_bits_stored_do_not_wrap_round():
    # Bone alone reaches 13 bits.
    pixels = phantom(5000, 100)
    assert 0.01 < (pixels > 4095).mean() < 0.2

    gray, repairs = read(dicom(pixels, BitsStored=12))

    assert np.array_equal(gray, read(dicom(pixels))[0])
    assert repairs == (Repair.BITS_STORED,)


@pytest.mark.parametrize("bits", [8, 10])
def test_a_lossy_image_that_uses_more_bits_than_it_says_is_not_clipped(bits):
    pixels = phantom(3900, 100)
    stream = imagecodecs.jpeg8_encode(pixels, level=95, bitspersample=12)

    gray, repairs = read(dicom(pixels, uid.JPEGExtended12Bit, stream=stream, BitsStored=bits))

    assert mean_difference(gray, read(dicom(pixels))[0]) < 2
    assert repairs == (Repair.BITS_STORED,)


@pytest.mark.parametrize("plane", ["overlay", "noise", "constant", "one value"])
def test_bits_beyond_those_stored_that_hold_no_picture_are_masked(plane):
    y, x = np.mgrid[:160, :128]
    above = {
        "overlay": ((y // 7 + x // 11) % 5 == 0) * 0x1000,
        "noise": np.random.default_rng(1).integers(0, 16, PHANTOM.shape) << 12,
        "constant": np.full(PHANTOM.shape, 0x5000),
        "one value": (y > 100) * 0xF000,
    }[plane]

    gray, repairs = read(dicom((PHANTOM | above).astype(np.uint16), BitsStored=12))

    assert np.array_equal(gray, EXPECTED)
    assert repairs == ()


@pytest.mark.parametrize("padding", [{"PixelPaddingValue": 0xFFFF}, {}])
def test_padding_in_all_bits_is_no_picture(padding):
    padded = PHANTOM.copy()
    padded[:, :20] = 0xFFFF

    _, repairs = read(dicom(padded, BitsStored=12, WindowCenter=2048, WindowWidth=4096, **padding))

    assert repairs == ()


def test_a_high_bit_that_puts_the_values_into_the_lowest_bits_is_corrected():
    # Read at high bit 15, the values would lose four bits; read at high bit 11, they would wrap round.
    assert np.array_equal(read(dicom(PHANTOM, BitsStored=12, HighBit=15))[0], EXPECTED)
    assert read(dicom(PHANTOM, BitsStored=12, HighBit=15))[1] == (Repair.BITS_STORED,)

    gray, repairs = read(dicom(PHANTOM << 4, BitsStored=12, HighBit=11))
    assert np.array_equal(gray, EXPECTED)
    assert repairs == (Repair.BITS_STORED,)
    assert read(dicom(PHANTOM << 4, BitsStored=12, HighBit=15)) == (pytest.approx(EXPECTED), ())


@pytest.mark.parametrize("elements", [{"BitsStored": 12, "HighBit": 3}, {"BitsStored": 17, "HighBit": 16}])
def test_bits_that_cannot_be_are_read_from_the_pixels(elements):
    gray, repairs = read(dicom(PHANTOM, **elements))

    assert np.array_equal(gray, EXPECTED)
    assert repairs == (Repair.BITS_STORED,)


@pytest.mark.parametrize("stored", [12, 13, 16])
@pytest.mark.parametrize("extended", [True, False])
def test_signed_values_that_are_called_unsigned_do_not_wrap_round(stored, extended):
    cells = SIGNED.view(np.uint16) if extended else SIGNED.view(np.uint16) & (2**stored - 1)

    gray, repairs = read(dicom(cells, BitsStored=stored))

    assert np.array_equal(gray, EXPECTED)
    assert Repair.SIGN in repairs


@pytest.mark.parametrize("stored", [12, 16])
def test_unsigned_values_that_are_called_signed_do_not_wrap_round(stored):
    pixels = PHANTOM if stored == 12 else DEEP

    gray, repairs = read(dicom(pixels, BitsStored=stored, PixelRepresentation=1))

    assert np.array_equal(gray, read(dicom(pixels))[0])
    assert repairs == (Repair.SIGN,)


@pytest.mark.parametrize("stored", [12, 16])
def test_signed_values_that_are_called_signed_stay_so(stored):
    assert read(dicom(SIGNED, BitsStored=stored)) == (pytest.approx(EXPECTED), ())


@pytest.mark.parametrize("white", [4095, 65535])
@pytest.mark.parametrize("shape", ["box", "letters"])
def test_white_letters_and_boxes_on_black_turn_no_sign(shape, white):
    pixels = phantom(1500, 0)
    y, x = np.mgrid[:160, :128]
    mask = (y < 40) & (x < 40) if shape == "box" else (y < 60) & ((x // 3) % 3 == 0)
    pixels[mask] = white if shape == "box" else np.random.default_rng(1).integers(white * 0.8, white, mask.sum())
    stored = white.bit_length()

    _, repairs = read(dicom(pixels, BitsStored=stored, WindowCenter=2.0 ** (stored - 1), WindowWidth=2.0**stored))

    assert Repair.SIGN not in repairs


@pytest.mark.parametrize(("pixels", "stored"), [(PHANTOM, 12), (PHANTOM, 16), (DEEP, 16)])
def test_swapped_bytes_are_swapped_back(pixels, stored):
    gray, repairs = read(dicom(pixels.byteswap(), BitsStored=stored))

    assert np.array_equal(gray, read(dicom(pixels))[0])
    assert repairs == (Repair.BYTE_ORDER,)


def test_noise_is_left_as_it_is():
    noise = np.random.default_rng(2).integers(0, 65536, PHANTOM.shape).astype(np.uint16)

    assert read(dicom(noise))[1] == ()
    assert read(dicom(noise & 0xFFF, BitsStored=12))[1] == ()
