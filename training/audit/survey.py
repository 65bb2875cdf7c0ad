"""One pass over a data set's files: what each film is, kept small enough to compare all with all."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.dataset import Dataset
from xray.archives.files import read_image_file
from xray.errors import FileFault
from xray.images.decode import decode
from xray.vocabulary import Reason

SIDE = 64
"""Side of the small copy by which films are compared, pixels."""

CHUNK = 256


@dataclass(frozen=True, slots=True)
class AuditedImage:
    """One file that could be read; about 4.5 KB, so 40,000 take 180 MB.

    Attributes
    ----------
    sha256 : str
        Of the file's bytes.
    pixels : str
        SHA-256 of the decoded gray and its shape: the same for the same picture in another file format.
    height, width : int
        Pixels.
    small : bytes
        The film squashed to ``uint8 (SIDE, SIDE)``, antialiased, row by row.
    """

    sha256: str
    pixels: str
    height: int
    width: int
    small: bytes


def survey(dataset: Dataset) -> Iterator[AuditedImage | Reason]:
    """Read every file of a data set once, in its order, in as many threads as there are processors.

    Yields
    ------
    Film or Reason
        What a file holds, or why it cannot be read: training leaves it out for the same reason.

    Raises
    ------
    ArchiveOutage
        If the storage fails, which says nothing of the files.
    """
    look = partial(_look, dataset.root)
    images = [example.image for example in dataset.examples]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        # In chunks, so that an interrupted pass ends soon.
        for start in range(0, len(images), CHUNK):
            yield from threads.map(look, images[start : start + CHUNK])


def stack_small(films: Sequence[AuditedImage]) -> NDArray[np.uint8]:
    """Return the small copies of N films, ``uint8 (N, SIDE, SIDE)``."""
    return np.frombuffer(b"".join(film.small for film in films), np.uint8).reshape(-1, SIDE, SIDE)


def _look(root: Path, image: str) -> AuditedImage | Reason:
    try:
        data = read_image_file(root, image)
        gray = decode(data)
    except FileFault as fault:
        return fault.reason
    small = Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = hashlib.sha256(repr(gray.shape).encode())
    pixels.update(gray.tobytes())
    height, width = gray.shape
    return AuditedImage(hashlib.sha256(data).hexdigest(), pixels.hexdigest(), height, width, small.tobytes())


BLANK = 4.0
"""Standard deviation of a small copy, in gray values, below which there is nothing to see. FracAtlas's least is 14."""

BORDER = 4
BRIGHT_BORDER, BRIGHT_MEDIAN = 0.6, 0.5


def blank(small: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Say which of N films ``uint8 (N, side, side)`` are nearly constant: ``(N,)`` bool."""
    return np.array([film.std() < BLANK for film in small], np.bool_)


def looks_inverted(small: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Say which films have bright air around dark bone, as MONOCHROME1 taken as it is.

    Air lies at a film's border and takes most of its area. So a film is named when, on a scale from its 5th to its 95th
    percentile of gray, the median of its border (4 pixels of the 64) is over 0.6 and the median of all of it over 0.5.
    On FracAtlas, which has no inverted film, it names 1 of 3,002 (a knee on a white cassette); of the same films
    inverted it names 97 %.

    Parameters
    ----------
    small : ndarray of uint8, (N, side, side)
        Films, squashed to a square.

    Returns
    -------
    ndarray of bool, (N,)
        Never true for a blank film.
    """
    ring = np.ones(small.shape[1:], np.bool_)
    ring[BORDER:-BORDER, BORDER:-BORDER] = False
    # Film by film, as NumPy would make floats of all of them at once.
    levels = np.array([np.percentile(film, (5, 50, 95)) for film in small]).reshape(-1, 3)
    border = np.median(small[:, ring], axis=1)
    low, span = levels[:, 0], np.maximum(levels[:, 2] - levels[:, 0], 1.0)
    bright = ((border - low) / span > BRIGHT_BORDER) & ((levels[:, 1] - low) / span > BRIGHT_MEDIAN)
    return np.asarray(bright & ~blank(small), np.bool_)
