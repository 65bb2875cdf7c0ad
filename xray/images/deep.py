"""Colour and alpha of 16 bits a channel, of which Pillow gives one byte at a time.

`imagecodecs.png_decode` gives both bytes at once, but is not safe for damaged files: each takes the memory of all its
pixels for good (2026.3.6 and 2026.10.10) and, below Python 3.12, a reference to None, until the process dies.
`imagecodecs.tiff_decode` raises no error for some damaged strips, and leaves the pixels they lack as the memory was.
"""

import sys

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

from xray.errors import FileFault
from xray.images.tiff import TiffImage, with_rawmodes
from xray.vocabulary import Reason

_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _PLANAR_CONFIGURATION = 258, 277, 284
_APART = 2

# Of each channel Pillow keeps the high byte. Told that the bytes come in the other order, it keeps the low one.
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_LOW_BYTES = {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBA", "RGBX")
    for order, other in _OTHER_ORDER.items()
}
# Gray and alpha have no other order, but are as long as four channels of 8 bits: high, low, high, low.
_GRAY_ALPHA = "LA;16B"
_LOW_BYTES[_GRAY_ALPHA] = "RGBA"

# ITU-R BT.601, as Pillow has it for 8 bits.
_WEIGHTS = (19595, 38470, 7471)
_BAND = 2**20


def is_deep(image: ImageFile) -> bool:
    """Say of an image before it is decoded if it has several channels, deeper than 8 bits."""
    if isinstance(image, TiffImage):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        samples = image.tag_v2.get(_SAMPLES_PER_PIXEL, 1)
        return bool(max(bits) > 8 and max(len(bits), samples) > 1)
    # Such as "RGB;16B": what the file holds, where the mode says what Pillow makes of it.
    return image.mode != "I;16" and any(";16" in rawmode for rawmode in _rawmodes(image))


def check_deep(image: ImageFile) -> None:
    """Refuse, as ``unsupported``, a deep image of which the low bytes cannot be had."""
    apart = isinstance(image, TiffImage) and image.tag_v2.get(_PLANAR_CONFIGURATION) == _APART
    if apart or "transparency" in image.info or not _rawmodes(image) <= _LOW_BYTES.keys():
        raise FileFault(Reason.UNSUPPORTED, "colour or alpha of more than 8 bits a channel, in a form that is not read")


class LowBytes:
    """The low bytes of a deep image.

    Parameters
    ----------
    image : ImageFile
        The file, opened once more, not decoded yet; afterwards its decoding gives the low bytes.
    """

    def __init__(self, image: ImageFile) -> None:
        self._image = image
        self._channels = [1, 1, 1, 3] if _GRAY_ALPHA in _rawmodes(image) else [0, 1, 2, 3][: len(image.getbands())]
        image.tile = with_rawmodes(image.tile, _LOW_BYTES)

    def luma(self, high: ImageFile) -> NDArray[np.uint16]:
        """Return the gray of a deep image, on black where it is transparent, when both halves are decoded."""
        luma = np.empty((high.height, high.width), np.uint16)
        step = max(1, _BAND // high.width)
        for top in range(0, high.height, step):
            box = 0, top, high.width, min(top + step, high.height)
            low = np.asarray(self._image.crop(box))[..., self._channels]
            luma[box[1] : box[3]] = _luma(np.asarray(high.crop(box)).astype(np.uint32) << 8 | low)
        return luma


def _luma(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    # The greatest products, 65535 * 65536 and 65535 * 65535, leave room for the halves in 32 bits.
    luma = np.full(values.shape[:2], 2**15, np.uint32)
    for channel, weight in enumerate(_WEIGHTS):
        luma += values[..., channel] * np.uint32(weight)
    luma >>= 16
    if values.shape[-1] == 4:
        luma = (luma * values[..., 3] + np.uint32(32767)) // np.uint32(65535)
    return luma


def _rawmodes(image: ImageFile) -> set[str]:
    return {str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in image.tile}
