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

from training.dataset import Dataset
from xray.errors import FileFault
from xray.files import read_image_file
from xray.pixels import decode
from xray.vocabulary import Reason

SIDE = 64
"""Side of the small copy by which films are compared, pixels."""

CHUNK = 256


@dataclass(frozen=True, slots=True)
class Film:
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


def survey(dataset: Dataset) -> Iterator[Film | Reason]:
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


def stack_small(films: Sequence[Film]) -> NDArray[np.uint8]:
    """Return the small copies of N films, ``uint8 (N, SIDE, SIDE)``."""
    return np.frombuffer(b"".join(film.small for film in films), np.uint8).reshape(-1, SIDE, SIDE)


def _look(root: Path, image: str) -> Film | Reason:
    try:
        data = read_image_file(root, image)
        gray = decode(data)
    except FileFault as fault:
        return fault.reason
    small = Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = hashlib.sha256(repr(gray.shape).encode())
    pixels.update(gray.tobytes())
    height, width = gray.shape
    return Film(hashlib.sha256(data).hexdigest(), pixels.hexdigest(), height, width, small.tobytes())
