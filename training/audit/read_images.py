"""One pass over the files of a data set: what each image holds, small enough to compare all of them in memory."""

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
from xray.images.plausibility import check_plausible
from xray.vocabulary import Reason

SIDE = 64
"""Side of the small copies by which images are compared, pixels."""

CHUNK = 256


@dataclass(frozen=True, slots=True)
class AuditedImage:
    """A file that could be read; about 4.5 KB, so 40,000 take 180 MB.

    Attributes
    ----------
    sha256 : str
        SHA-256 of the file's bytes.
    pixels : str
        SHA-256 of the decoded gray values and their shape: equal for equal pixels in a different file format.
    height, width : int
        Size in pixels.
    small : bytes
        The image resized to ``uint8 (SIDE, SIDE)``, antialiased, row by row.
    implausible : str
        Why training and screening refuse the picture, or empty.
    """

    sha256: str
    pixels: str
    height: int
    width: int
    small: bytes
    implausible: str = ""


def read_images(dataset: Dataset) -> Iterator[AuditedImage | Reason]:
    """Read every file of a data set once, in order, in as many threads as there are processors.

    Yields
    ------
    AuditedImage or Reason
        What the file holds, or why it cannot be read: training leaves it out for the same reason. A picture that it
        leaves out as implausible is held, so that a person can look at it.

    Raises
    ------
    ArchiveOutage
        If the storage fails, which is no fault of a file.
    """
    read = partial(_read, dataset.root)
    images = [example.image for example in dataset.examples]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        # In chunks, so that an interrupt ends the pass soon.
        for start in range(0, len(images), CHUNK):
            yield from threads.map(read, images[start : start + CHUNK])


def stack_small(images: Sequence[AuditedImage]) -> NDArray[np.uint8]:
    """Return the small copies of N images, ``uint8 (N, SIDE, SIDE)``."""
    return np.frombuffer(b"".join(image.small for image in images), np.uint8).reshape(-1, SIDE, SIDE)


def _read(root: Path, image: str) -> AuditedImage | Reason:
    try:
        data = read_image_file(root, image)
        gray = decode(data)
    except FileFault as fault:
        return fault.reason
    small = Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = hashlib.sha256(repr(gray.shape).encode())
    pixels.update(gray.tobytes())
    height, width = gray.shape
    try:
        check_plausible(gray)
        implausible = ""
    except FileFault as fault:
        implausible = fault.detail
    digest = hashlib.sha256(data).hexdigest()
    return AuditedImage(digest, pixels.hexdigest(), height, width, small.tobytes(), implausible)


BLANK = 4.0
"""Standard deviation of a small copy, in gray values, below which it shows nothing. The least in FracAtlas is 14."""

BORDER = 4
BRIGHT_BORDER, BRIGHT_MEDIAN = 0.6, 0.5


def is_blank(small: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which of N images ``uint8 (N, side, side)`` are nearly constant, ``(N,)`` bool."""
    return np.array([image.std() < BLANK for image in small], np.bool_)


def looks_inverted(small: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which images have bright air around dark bone, as MONOCHROME1 pixels shown without inversion do.

    Air is at the border of a radiograph and covers most of it. An image looks inverted when, on a scale from its 5th to
    its 95th percentile of gray, the median of its border (4 of 64 pixels) is over 0.6 and the median of the whole over
    0.5. FracAtlas has no inverted image: 1 of its 3,002 is reported (a knee on a white cassette), and 97 % of them once
    they are inverted.

    Parameters
    ----------
    small : ndarray of uint8, (N, side, side)
        Images, resized to a square.

    Returns
    -------
    ndarray of bool, (N,)
        False for a blank image.
    """
    border = np.ones(small.shape[1:], np.bool_)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    # One image at a time, as NumPy would convert all of them to floats at once.
    levels = np.array([np.percentile(image, (5, 50, 95)) for image in small]).reshape(-1, 3)
    border_median = np.median(small[:, border], axis=1)
    low, span = levels[:, 0], np.maximum(levels[:, 2] - levels[:, 0], 1.0)
    bright = ((border_median - low) / span > BRIGHT_BORDER) & ((levels[:, 1] - low) / span > BRIGHT_MEDIAN)
    return np.asarray(bright & ~is_blank(small), np.bool_)
