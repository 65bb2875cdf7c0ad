"""From a file's bytes to the square of gray that the network takes: one code for training and screening."""

import re
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xray.errors import PackageError
from xray.images.decode import decode

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
