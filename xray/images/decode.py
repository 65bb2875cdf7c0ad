"""From a file's bytes to the square of gray that the network takes: one code for training and screening."""

import numpy as np
from numpy.typing import NDArray

from xray.errors import FileFault
from xray.images.dicom.header import HEAD, is_dicom
from xray.images.dicom.pixels import decode_dicom, dicom_room
from xray.images.raster import decode_picture, is_picture, picture_room
from xray.vocabulary import Reason

MAX_PIXELS = 100_000_000
"""Over twice the largest radiograph detectors. While such a film is decoded, it takes 292 MB as 8-bit gray, 585 MB as
16-bit gray, 684 MB as colour and 980 MB as colour of 16 bits a channel (measured); the gray that comes out takes
100 MB. As DICOM of 16 bits it takes, besides the file, 400 MB uncompressed, 640 MB as JPEG 2000, 660 MB as JPEG-LS,
710 MB as RLE, and 760 to 860 MB as JPEG, extended or lossless."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG, TIFF or DICOM file to gray at its full size; safe in threads.

    Values deeper than 8 bits, or signed, are mapped linearly from the image's own least and greatest gray to 0..255, as
    10, 12 and 16 bits come in the same 16-bit files. Colour becomes luma (ITU-R BT.601), alpha lies on black, the EXIF
    orientation is applied, and a WhiteIsZero TIFF is inverted. Of a multi-picture JPEG the first picture is read. How
    DICOM becomes gray: ``xray.images.dicom.pixels``.

    Parameters
    ----------
    data : bytes
        A whole file.
    max_pixels : int
        Cap on width x height, held against the header before anything is decoded.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        May be read-only.

    Raises
    ------
    FileFault
        The bytes are no image we read, are damaged, hold several frames, or are over the cap.
    """
    if not data:
        raise FileFault(Reason.EMPTY)
    # A DICOM file may have a whole TIFF header before it, to be read as either (PS3.10 section 7.1).
    read = decode_dicom if is_dicom(data[:HEAD]) else decode_picture
    return read(data, max_pixels)


def is_image(head: bytes) -> bool:
    """Tell from a file's first `HEAD` bytes whether it claims to be a DICOM, PNG, JPEG or TIFF file."""
    return is_dicom(head) or is_picture(head)


def pixel_count(data: bytes) -> int:
    """Say from a file's header, cheaply, for how many pixels its decoding makes room; 0 for no image we read.

    Colour of 16 bits a channel is decoded twice, and counts double.
    """
    return dicom_room(data) if is_dicom(data[:HEAD]) else picture_room(data)
