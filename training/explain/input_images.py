"""Radiographs to explain: as the network's input, and as they are drawn."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xray.archives.files import read_image_file
from xray.errors import ArchiveOutage, FileFault, UsageError
from xray.images.decode import decode_plausible, open_image
from xray.images.preprocessing import Preprocessing
from xray.vocabulary import Reason

PANEL_SIDE = 480
"""Long side of an image as drawn, pixels."""


@dataclass(frozen=True)
class InputImage:
    """One radiograph.

    Attributes
    ----------
    name : str
        Its printable name, unique in the report; see :func:`distinct_names`.
    gray : ndarray of uint8, (H, W)
        The image as drawn; its long side is 480 pixels.
    square : ndarray of uint8, (size, size)
        The network's input.
    image_box : tuple of int
        Top, left, height and width of the image in the square, pixels.
    """

    name: str
    gray: NDArray[np.uint8]
    square: NDArray[np.uint8]
    image_box: tuple[int, int, int, int]


def read_input_image(path: Path, name: str, preprocessing: Preprocessing) -> InputImage:
    """Decode a file as screening does, under a name from :func:`distinct_names`.

    Raises
    ------
    UsageError
        If there is no such file.
    FileFault
        If it cannot be read as a radiograph.
    ArchiveOutage
        If the storage does not answer.
    """
    gray = read_gray(path)
    height, width = (max(1, round(side * PANEL_SIDE / max(gray.shape))) for side in gray.shape)
    drawn = np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))
    return InputImage(name, drawn, preprocessing.apply(gray), preprocessing.image_box(*gray.shape))


def read_gray(path: str | Path) -> NDArray[np.uint8]:
    """Decode a file that a person names to gray at its full size, as screening does.

    Raises
    ------
    UsageError
        If there is no such file.
    FileFault
        If it cannot be read as a radiograph.
    ArchiveOutage
        If the storage does not answer.
    """
    if not str(path):
        raise UsageError("an empty path; give an image file")
    # Links of an archive must not lead out of it, but a person may name any file. Its folder counts as the archive.
    file = Path(os.path.realpath(path))
    try:
        return decode_plausible(open_image(read_image_file(file.parent, file.name)))
    except (FileFault, ArchiveOutage) as error:
        vanished = error.reason == Reason.VANISHED if isinstance(error, FileFault) else _is_missing(file)
        if vanished:
            raise UsageError(f"there is no file {path}") from error
        raise


def _is_missing(file: Path) -> bool:
    try:
        file.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Name files by the shortest end of their path that no other has, as all files of MURA are called image1.png.

    Parameters
    ----------
    paths : sequence of Path
        N files, none twice.

    Returns
    -------
    list of str
        N printable names, with slashes where they include folders.
    """
    ends = [[Path(*path.parts[-count:]).as_posix() for count in range(1, len(path.parts) + 1)] for path in paths]
    counts = Counter(end for each in ends for end in each)
    # The end of one path may be the whole of another, which then has no other name.
    return [_printable(next((end for end in each if counts[end] == 1), each[-1])) for each in ends]


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
