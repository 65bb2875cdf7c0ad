"""Preprocessing: a decoded image becomes the network's square input; training and screening both use this."""

import re
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from xray.errors import PackageError
from xray.images.decode import OpenedImage, decode_plausible
from xray.images.resize import resize

Geometry = Literal["squash", "pad"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input; the id is part of a model package's card.

    Attributes
    ----------
    size : int
        Side of the square input, pixels.
    geometry : {"squash", "pad"}
        ``squash`` stretches the image to the square; ``pad`` keeps its proportions and centres it on black.
    """

    size: int
    geometry: Geometry

    @property
    def id(self) -> str:
        """The id, such as ``gray8-pad-224-bilinear-1``; the last number is the version of the algorithm.

        Version 1 is gray at full size, then Pillow's antialiased bilinear reduction, to within one gray level.
        """
        return f"gray8-{self.geometry}-{self.size}-bilinear-1"

    @classmethod
    def from_id(cls, text: str) -> "Preprocessing":
        """Make the preprocessing that an id names.

        Raises
        ------
        PackageError
            If the id is unknown to this version of bonescreen.
        """
        match = re.fullmatch(r"gray8-(squash|pad)-([1-9][0-9]{1,3})-bilinear-1", text)
        if match is None:
            raise PackageError(
                f"this version of bonescreen does not support the preprocessing {text!r}; update bonescreen"
            )
        return cls(int(match[2]), cast("Geometry", match[1]))

    def image_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the box of an image within the square.

        Parameters
        ----------
        height, width : int
            The image's size, pixels.

        Returns
        -------
        tuple of int
            Top, left, height and width of the resized image in the square, pixels.
        """
        if self.geometry == "squash":
            return 0, 0, self.size, self.size
        scale = self.size / max(height, width)
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        return (self.size - h) // 2, (self.size - w) // 2, h, w

    def apply(self, gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image into the square, antialiased: bilinear, the filter's support scaled to the reduction.

        Parameters
        ----------
        gray : ndarray of uint8, shape (H, W)
            The decoded image, bone bright.

        Returns
        -------
        ndarray of uint8, shape (size, size)
        """
        top, left, height, width = self.image_box(gray.shape[0], gray.shape[1])
        square = np.zeros((self.size, self.size), np.uint8)
        square[top : top + height, left : left + width] = resize(gray, height, width)
        return square


def load(image: OpenedImage, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode an opened file and preprocess its image.

    Parameters
    ----------
    image : OpenedImage
        See `xray.images.decode.open_image`.
    preprocessing : Preprocessing
        Makes the network's input.

    Returns
    -------
    ndarray of uint8, shape (size, size)

    Raises
    ------
    FileFault
        As `xray.images.decode.decode_plausible`.
    """
    return preprocessing.apply(decode_plausible(image))
