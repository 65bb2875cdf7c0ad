"""Decode an image file of any supported format to gray; training and screening both use this."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xray.errors import FileFault
from xray.images.dicom.header import HEAD_BYTES, is_dicom
from xray.images.plausibility import check_plausible
from xray.images.raster import RasterImage, is_raster
from xray.vocabulary import Reason, Repair

MAX_PIXELS = 100_000_000
"""Over twice as many as the largest radiograph detectors have. Decoding an image of this size takes 292 MB as 8-bit
gray, 585 MB as 16-bit gray, 684 MB as colour and 980 MB as colour of 16 bits a channel (measured); the resulting gray
takes 100 MB, and resizing it to 224 pixels 80 MB at most. As DICOM of 16 bits it takes, besides the file, 400 MB
uncompressed, 640 MB as JPEG 2000, 660 MB as JPEG-LS, 710 MB as RLE, and 760 to 860 MB as JPEG, extended or lossless."""


class OpenedImage(Protocol):
    """An image file whose header was read, and whose pixels were not decoded yet."""

    @property
    def pixel_count(self) -> int:
        """How many pixels decoding holds in memory."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width by the header of the image as it is shown, pixels."""

    @property
    def repairs(self) -> tuple[Repair, ...]:
        """What the file says wrongly about its pixels, which were read otherwise; known once `gray` was called."""

    def gray(self, max_pixels: int) -> NDArray[np.uint8]:
        """Decode the image, once, as `decode` does."""


def open_image(data: bytes) -> OpenedImage:
    """Open a PNG, JPEG, TIFF or DICOM file.

    Parameters
    ----------
    data : bytes
        A whole file.

    Raises
    ------
    FileFault
        The format is not supported, or the header is damaged.
    """
    if not data:
        raise FileFault(Reason.EMPTY)
    # DICOM first, as its preamble may be a TIFF header, for readers of either format (PS3.10 section 7.1).
    if is_dicom(data[:HEAD_BYTES]):
        # pydicom and its codecs are imported with the first DICOM file, as most archives hold none.
        from xray.images.dicom.pixels import DicomImage

        return DicomImage(data)
    return RasterImage(data)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG, TIFF or DICOM file to gray at its full size. Thread-safe.

    Values of more than 8 bits, or signed, are mapped linearly from the image's own range (`xray.images.gray_range`) to
    0..255, as a 16-bit file may hold values of 10, 12 or 16 bits. Colour becomes luma (ITU-R BT.601), transparent
    pixels are blended with black, the EXIF orientation is applied, and a WhiteIsZero TIFF is inverted. Of a
    multi-picture JPEG, the first picture is read. DICOM's own rules are in `xray.images.dicom.grayscale`.

    Parameters
    ----------
    data : bytes
        A whole file.
    max_pixels : int
        Cap on width x height; checked against the header before anything is decoded.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        May be read-only. Of DICOM: bone bright, square pixels.

    Raises
    ------
    FileFault
        The format is not supported, or the file is damaged, has several frames, or exceeds the cap.
    """
    return open_image(data).gray(max_pixels)


def decode_plausible(image: OpenedImage) -> NDArray[np.uint8]:
    """Decode an opened file, and refuse a picture that cannot be a radiograph: for screening and training alike.

    `decode` decodes such a picture too, for people to look at.

    Parameters
    ----------
    image : OpenedImage
        See `open_image`.

    Returns
    -------
    ndarray of uint8, shape (H, W)

    Raises
    ------
    FileFault
        As `decode` and `xray.images.plausibility.check_plausible`.
    """
    gray = image.gray(MAX_PIXELS)
    check_plausible(gray)
    return gray


def is_image(head: bytes) -> bool:
    """Tell from a file's first `HEAD_BYTES` bytes whether it claims to be a DICOM, PNG, JPEG or TIFF file."""
    return is_dicom(head) or is_raster(head)
