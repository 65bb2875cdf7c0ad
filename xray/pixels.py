"""From a file's bytes to the square of gray that the network takes: one code for training and screening."""

import re
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xray.dicom.header import HEAD, is_dicom
from xray.errors import FileFault, PackageError
from xray.pictures import decode_picture, picture_room
from xray.vocabulary import Reason

MAX_PIXELS = 100_000_000
"""Over twice the largest radiograph detectors. While such a film is decoded, it takes 292 MB as 8-bit gray, 585 MB as
16-bit gray, 684 MB as colour and 980 MB as colour of 16 bits a channel (measured); the gray that comes out takes
100 MB. As DICOM of 16 bits it takes, besides the file, 400 MB uncompressed, 640 MB as JPEG 2000, 660 MB as JPEG-LS,
710 MB as RLE, and 760 to 860 MB as JPEG, extended or lossless."""

Geometry = Literal["squash", "pad"]


@dataclass(frozen=True)
class Preprocessing:
    """How a film becomes the network's input; its id is part of a model package.

    Parameters
    ----------
    size : int
        Side of the square, pixels.
    geometry : {"squash", "pad"}
        ``squash`` stretches the film to the square; ``pad`` keeps its proportions, centred on black.
    """

    size: int
    geometry: Geometry

    @property
    def id(self) -> str:
        """The id, such as ``gray8-pad-224-bilinear-1``; the last number counts changes of this module's meaning."""
        return f"gray8-{self.geometry}-{self.size}-bilinear-1"

    @classmethod
    def from_id(cls, text: str) -> "Preprocessing":
        """Read an id.

        Raises
        ------
        PackageError
            This bonescreen does not know the id.
        """
        match = re.fullmatch(r"gray8-(squash|pad)-([1-9][0-9]{1,3})-bilinear-1", text)
        if match is None:
            raise PackageError(f"this bonescreen does not know the preprocessing {text!r}; update bonescreen")
        return cls(int(match[2]), cast("Geometry", match[1]))

    def placement(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Say where a film of `height` x `width` pixels lies in the square: top, left, height, width."""
        if self.geometry == "squash":
            return 0, 0, self.size, self.size
        scale = self.size / max(height, width)
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        return (self.size - h) // 2, (self.size - w) // 2, h, w

    def apply(self, gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fit a film into the square, antialiased (Pillow's bilinear filter with support scaled to the reduction).

        Parameters
        ----------
        gray : ndarray of uint8, shape (H, W)
            The film, bone bright.

        Returns
        -------
        ndarray of uint8, shape (size, size)
        """
        top, left, height, width = self.placement(gray.shape[0], gray.shape[1])
        square = np.zeros((self.size, self.size), np.uint8)
        resized = Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR)
        square[top : top + height, left : left + width] = np.asarray(resized)
        return square


def load(data: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode a file's bytes and fit the film into the square: uint8, shape (size, size). Raises `FileFault`."""
    return preprocessing.apply(decode(data))


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG, TIFF or DICOM file to gray at its full size; safe in threads.

    Values deeper than 8 bits, or signed, are mapped linearly from the image's own least and greatest gray to 0..255, as
    10, 12 and 16 bits come in the same 16-bit files. Colour becomes luma (ITU-R BT.601), alpha lies on black, the EXIF
    orientation is applied, and a WhiteIsZero TIFF is inverted. Of a multi-picture JPEG the first picture is read. How
    DICOM becomes gray: ``xray.dicom.pixels``.

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
    if is_dicom(data[:HEAD]):
        from xray.dicom.pixels import decode_dicom

        return decode_dicom(data, max_pixels)
    return decode_picture(data, max_pixels)


def pixel_count(data: bytes) -> int:
    """Say from a file's header, cheaply, for how many pixels its decoding makes room; 0 for no image we read.

    Colour of 16 bits a channel is decoded twice, and counts double.
    """
    if is_dicom(data[:HEAD]):
        from xray.dicom.pixels import dicom_room

        return dicom_room(data)
    return picture_room(data)
