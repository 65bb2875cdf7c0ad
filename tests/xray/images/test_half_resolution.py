"""JPEG 2000 radiographs at half the resolution: only where the network's input stays the same within one gray level."""

from collections.abc import Callable
from types import MappingProxyType

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.archives import encoded
from tests.dicoms import dicom
from xray.errors import FileFault
from xray.images.decode import decode, open_image
from xray.images.preprocessing import Preprocessing, load
from xray.images.resize import HalfResolution

SMALL = Preprocessing(16, "pad")
SQUASHED = Preprocessing(16, "squash")
FULL_RANGE = MappingProxyType({"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096})


def limb(height: int = 231, width: int = 202, noise: float = 12) -> np.ndarray:
    """Return an image of 12 bits: soft tissue and bone in noise, and a marker whose edges are as sharp as can be."""
    y, x = np.mgrid[:height, :width]
    smooth = 900 * (np.sin(y / 29) + np.cos(x / 23) + 2)
    pixels = smooth + np.random.default_rng(height).normal(0, noise, smooth.shape)
    pixels[60:75, 50:52] = pixels[60:62, 50:60] = 4095
    return pixels.clip(0, 4095).astype(np.uint16)


def j2k(pixels: np.ndarray, **options: object) -> bytes:
    chosen = {"codecformat": "j2k", "reversible": True, "bitspersample": 12, **options}
    return imagecodecs.jpeg2k_encode(pixels, **chosen)


def radiograph(pixels: np.ndarray, stream: bytes | None = None, **elements: object) -> bytes:
    described = {**FULL_RANGE, **elements}
    return dicom(pixels, uid.JPEG2000Lossless, stream=j2k(pixels) if stream is None else stream, **described)


def sampled(data: bytes, preprocessing: Preprocessing = SMALL) -> np.ndarray | HalfResolution:
    return open_image(data).sampled(10**6, preprocessing.image_box)


def reference(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Preprocess an image by the plain rule: gray at full size, then Pillow's antialiased bilinear reduction."""
    gray = decode(data)
    top, left, height, width = preprocessing.image_box(*gray.shape)
    square = np.zeros((preprocessing.size, preprocessing.size), int)
    resized = Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR)
    square[top : top + height, left : left + width] = np.asarray(resized)
    return square


def checkerboard(low: int, high: int) -> np.ndarray:
    squares = np.indices((231, 202)).sum(0) % 2
    return np.where(squares, high, low).astype(np.uint16)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("preprocessing", [SMALL, SQUASHED])
@pytest.mark.parametrize("size", [(231, 202), (230, 200), (300, 181)])
def test_a_large_radiograph_is_decoded_at_half_the_resolution_within_one_level(size, preprocessing, photometric):
    data = radiograph(limb(*size), PhotometricInterpretation=photometric)

    assert isinstance(sampled(data, preprocessing), HalfResolution)
    assert np.abs(load(open_image(data), preprocessing) - reference(data, preprocessing)).max() <= 1


def test_sharp_edges_between_black_and_white_are_not_cut_off():
    pixels = np.where(limb(noise=0) > 1500, 4095, 0).astype(np.uint16)
    pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:] = 0, 0, 0, 0
    data = radiograph(pixels)

    assert isinstance(sampled(data), HalfResolution)
    assert np.abs(load(open_image(data), SMALL) - reference(data, SMALL)).max() <= 1


@pytest.mark.parametrize(("low", "high"), [(0, 4095), (500, 700), (3000, 4095)])
def test_a_checkerboard_stays_within_one_level(low, high):
    data = radiograph(checkerboard(low, high))

    assert np.abs(load(open_image(data), SMALL) - reference(data, SMALL)).max() <= 1


@pytest.mark.parametrize("window", [(1000, 1000), (2100, 4096), (2048, 3900)])
def test_an_image_whose_window_clips_is_decoded_in_full_as_a_mean_of_clipped_values_is_no_clipped_mean(window):
    center, width = window
    edge = max(0, center - width // 2)
    for pixels in (limb(), checkerboard(max(0, edge - 300), edge + 300)):
        data = radiograph(pixels, WindowCenter=center, WindowWidth=width)

        assert np.array_equal(sampled(data), decode(data))


def voi_lut() -> Sequence:
    item = Dataset()
    item.add_new(0x00283002, "US", [4096, 0, 8])
    item.add_new(0x00283006, "OW", (np.sqrt(np.arange(4096) / 4095) * 255).astype("<u2").tobytes())
    return Sequence([item])


@pytest.mark.parametrize(
    "elements",
    [
        {"VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": voi_lut()},
        {"PixelPaddingValue": 0},
        {"WindowCenter": None, "WindowWidth": None},
        {"PixelSpacing": [0.1, 0.2]},
    ],
    ids=["sigmoid", "LUT", "padding", "no window", "oblong pixels"],
)
def test_an_image_whose_gray_is_not_linear_in_its_values_or_place_is_decoded_in_full(elements):
    data = radiograph(limb(), **elements)

    assert np.array_equal(sampled(data), decode(data))


@pytest.mark.parametrize(
    "encode",
    [
        lambda pixels: j2k(pixels, reversible=False, level=40),
        lambda pixels: j2k(pixels, resolutions=1),
    ],
    ids=["irreversible", "one resolution"],
)
def test_other_codestreams_are_decoded_in_full(encode: Callable[[np.ndarray], bytes]):
    pixels = limb()
    data = radiograph(pixels, encode(pixels))

    assert np.array_equal(sampled(data), decode(data))


@pytest.mark.parametrize("tile", [(202, 231), (128, 128)])
def test_a_codestream_of_several_tiles_is_decoded_in_full(tile):
    pixels = limb() * np.uint16(16)
    stream = encoded(Image.fromarray(pixels), "JPEG2000", no_jp2=True, irreversible=False, tile_size=tile)
    data = radiograph(pixels, stream, BitsStored=16, WindowCenter=2**15, WindowWidth=2**16)

    assert isinstance(sampled(data), HalfResolution) is (tile == (202, 231))
    assert np.abs(load(open_image(data), SMALL) - reference(data, SMALL)).max() <= 1


def test_an_image_that_is_reduced_less_is_decoded_in_full():
    data = radiograph(limb())

    assert np.array_equal(sampled(data, Preprocessing(32, "pad")), decode(data))


def test_a_line_at_the_border_is_not_lost():
    pixels = limb()[:230]
    pixels[-1] = 1
    data = radiograph(pixels)

    assert np.array_equal(sampled(data), decode(data))


def test_an_image_of_hardly_any_contrast_is_decoded_in_full():
    data = radiograph(limb() // 8 + 2000)

    assert np.array_equal(sampled(data), decode(data))


def test_the_cap_holds_before_anything_is_decoded():
    with pytest.raises(FileFault, match="too_many_pixels: 202 x 231"):
        open_image(radiograph(limb(), b"\0\0")).sampled(202 * 231 - 1, SMALL.image_box)


@pytest.mark.parametrize("share", [0.002, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("damage", ["cut", "zeros", "inverted"])
def test_a_damaged_codestream_is_refused_as_at_full_resolution(damage, share):
    pixels = limb()
    stream = bytearray(j2k(pixels))
    place = int(len(stream) * share)
    if damage == "cut":
        del stream[place:]
    else:
        part = stream[place : place + 400]
        stream[place : place + 400] = bytes(len(part)) if damage == "zeros" else bytes(255 - byte for byte in part)
    data = radiograph(pixels, bytes(stream))

    def outcome(read: Callable[[], object]) -> str:
        try:
            read()
        except FileFault as fault:
            return str(fault)
        return "an image"

    assert outcome(lambda: sampled(data)) == outcome(lambda: decode(data))
    assert damage != "cut" or outcome(lambda: sampled(data)) != "an image"
