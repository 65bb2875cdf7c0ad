"""Plain PNGs, as most are, decoded by libspng, which is faster than Pillow's own decoder."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xray.images.limits import check_png_chunks

# Chunks that say nothing about the pixels. Others may hold an orientation, transparency or a second frame.
_PLAIN = frozenset({b"IHDR", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME", b"tEXt"})
# The EXIF block as some programs store it, in a text.
_EXIF_TEXT = b"Raw profile type"
_GRAY, _RGB = 0, 2
_BAND_PIXELS = 2**20


def decode_plain_png(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a PNG of 8 bits a channel, gray or RGB, that is not interlaced and holds nothing besides its pixels.

    Parameters
    ----------
    data : bytes
        A whole file, whose header and size were checked.

    Returns
    -------
    ndarray of uint8, shape (H, W), or None
        The luma (ITU-R BT.601); None for any other PNG and for a damaged one, which Pillow must then decode or refuse.
    """
    bits, colour, compression, method, interlacing = data[24:29]
    if (bits, compression, method, interlacing) != (8, 0, 0, 0) or colour not in (_GRAY, _RGB):
        return None
    names = check_png_chunks(data)
    # Chunks behind the pixels are Pillow's to check.
    if names[-2:] != [b"IDAT", b"IEND"] or not _PLAIN.issuperset(names[:-2]) or _EXIF_TEXT in data:
        return None
    # Imported with the first PNG: the producer, which decodes none, starts faster without.
    from imagecodecs import SpngError, spng_decode

    try:
        pixels: NDArray[np.uint8] = spng_decode(data)
    except SpngError:
        return None
    return pixels if colour == _GRAY else _luma(pixels)


def _luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # In bands: Pillow takes four bytes of each pixel.
    gray = np.empty(pixels.shape[:2], np.uint8)
    step = max(1, _BAND_PIXELS // pixels.shape[1])
    for top in range(0, pixels.shape[0], step):
        gray[top : top + step] = np.asarray(Image.fromarray(pixels[top : top + step]).convert("L"))
    return gray
