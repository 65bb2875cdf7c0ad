"""Load a batch's images: read and decode their files in threads, ahead of the network."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.ledger import BatchImage
from worker.watchdog import decoding
from xray.archives.files import content_digest, read_image_file
from xray.errors import FileFault, StorageOutage
from xray.images.decode import open_image
from xray.images.preprocessing import Preprocessing, load
from xray.vocabulary import Reason

THREADS = max(2, min(8, os.cpu_count() or 2))

LARGE_IMAGE_PIXELS = 20_000_000
"""Larger images are decoded one at a time, as decoding takes several bytes per pixel (`xray.images.decode`)."""

_large_image_lock = threading.Lock()


@dataclass(frozen=True)
class LoadedImage:
    """One image as the network takes it, or the fault of its file.

    Parameters
    ----------
    image : BatchImage
        The image in the ledger.
    digest : bytes or None
        SHA-256 of the file's bytes; None if they could not be read.
    pixels : ndarray of uint8, shape (size, size), or None
        The preprocessed image, in [0, 255].
    fault : FileFault or None
        Why there are no pixels.
    """

    image: BatchImage
    digest: bytes | None = None
    pixels: NDArray[np.uint8] | None = None
    fault: FileFault | None = None


def load_images(
    root: Path, images: Sequence[BatchImage], preprocessing: Preprocessing, group_size: int
) -> Iterator[list[LoadedImage]]:
    """Yield the images of a batch in order, in groups, while threads decode the next ones.

    At most two groups are in memory, and images of more than `LARGE_IMAGE_PIXELS` are decoded one at a time, so memory
    depends neither on the batch size nor on the number of large images.

    Parameters
    ----------
    root : Path
        The archive's root on this host.
    images : sequence of BatchImage
        The images to load.
    preprocessing : Preprocessing
        The model package's.
    group_size : int
        Images per group, at least 1.

    Raises
    ------
    ArchiveOutage
        The root is missing or unreadable.
    StorageOutage
        This host is out of memory.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="decode") as pool:
        ahead: list[Future[LoadedImage]] = []
        position = 0
        try:
            while position < len(images) or ahead:
                while position < len(images) and len(ahead) < 2 * group_size:
                    ahead.append(pool.submit(_load, root, images[position], preprocessing))
                    position += 1
                ready, ahead = [future.result() for future in ahead[:group_size]], ahead[group_size:]
                yield ready
        finally:
            for future in ahead:
                future.cancel()


def _load(root: Path, image: BatchImage, preprocessing: Preprocessing) -> LoadedImage:
    digest = None
    try:
        data = _read(root, image)
        digest = content_digest(data)
        opened = open_image(data)
        with _large_image_lock if opened.pixel_count > LARGE_IMAGE_PIXELS else nullcontext(), decoding():
            return LoadedImage(image, digest, load(opened, preprocessing))
    except FileFault as fault:
        return LoadedImage(image, digest, fault=fault)
    except MemoryError as error:
        raise StorageOutage("this host does not have enough memory to decode an image") from error


def _read(root: Path, image: BatchImage) -> bytes:
    try:
        return read_image_file(root, image.path, expected=(image.size, image.mtime_ns))
    except FileFault as fault:
        if fault.reason is not Reason.VANISHED:
            raise
    # Read again: the archive may have come back after the file was missing and before its root was checked.
    return read_image_file(root, image.path, expected=(image.size, image.mtime_ns))
