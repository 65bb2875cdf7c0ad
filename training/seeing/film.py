"""A radiograph file as the network sees it, and as a person does."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xray.files import read_image_file
from xray.pixels import Preprocessing, decode

PANEL_SIDE = 480
"""Long side of a film as drawn, pixels."""


@dataclass(frozen=True)
class Film:
    """One radiograph.

    Attributes
    ----------
    name : str
        The file's name, fit to be printed.
    gray : ndarray of uint8, (H, W)
        The film as drawn; its long side is 480 pixels.
    square : ndarray of uint8, (size, size)
        The network's input.
    placement : tuple of int
        Top, left, height and width of the film in the square, pixels.
    """

    name: str
    gray: NDArray[np.uint8]
    square: NDArray[np.uint8]
    placement: tuple[int, int, int, int]


def read_film(path: Path, preprocessing: Preprocessing) -> Film:
    """Decode a file as screening does.

    Raises
    ------
    FileFault
        If it cannot be read as a radiograph.
    ArchiveOutage
        If its folder is missing or the storage does not answer.
    """
    # An archive's links may not lead out of it; a person may name any file.
    file = Path(os.path.realpath(path))
    gray = decode(read_image_file(file.parent, file.name))
    height, width = (max(1, round(side * PANEL_SIDE / max(gray.shape))) for side in gray.shape)
    drawn = np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))
    return Film(_printable(path.name), drawn, preprocessing.apply(gray), preprocessing.placement(*gray.shape))


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
