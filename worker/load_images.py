"""Load one image of a batch: read its file, decode and preprocess it."""

import threading
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from db.ledger import BatchImage
from worker.watchdog import in_work
from xray.archive_root import Root
from xray.archives.files import content_digest, read_image_file
from xray.copies import reduced_picture
from xray.cpus import usable_cpus
from xray.dicomweb import is_service
from xray.errors import FileFault
from xray.images.decode import open_image
from xray.images.preprocessing import Preprocessing, load
from xray.vocabulary import Reason, Repair

LARGE_IMAGE_PIXELS = 20_000_000
"""Larger images are decoded one at a time, as decoding takes several bytes per pixel (`xray.images.decode`)."""

ORDINARY_IMAGE_PIXELS = 4_000_000

DECODERS = max(2, usable_cpus())
"""Images that are decoded at once."""

FETCHES = 8
"""Instances that are fetched from a DICOMweb service meanwhile: it answers late rather than slowly."""

_large_image_lock = threading.Lock()
_decoding = threading.BoundedSemaphore(DECODERS)


def loading_threads(root: str) -> int:
    """Return how many threads load the images of an archive, by its root's text.

    Those who read files are no more than decode: files mostly come from this host's memory or disk.
    """
    return DECODERS + FETCHES if is_service(root) else DECODERS


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
    picture : bytes or None
        The same, reduced to find copies (`xray.copies.reduced_picture`).
    fault : FileFault or None
        Why there are no pixels.
    lacks_memory : bool
        There are no pixels, as this host did not have the memory to decode them.
    repairs : tuple of Repair
        What the file says wrongly about its pixels, which were read otherwise.
    """

    image: BatchImage
    digest: bytes | None = None
    pixels: NDArray[np.uint8] | None = None
    picture: bytes | None = None
    fault: FileFault | None = None
    lacks_memory: bool = False
    repairs: tuple[Repair, ...] = ()


def load_image(root: Root, image: BatchImage, preprocessing: Preprocessing) -> LoadedImage:
    """Load one image; images of more than `LARGE_IMAGE_PIXELS` are decoded one at a time, to bound memory.

    Parameters
    ----------
    root : Path or DicomWebService
        The archive's root on this host.
    image : BatchImage
        The image to load.
    preprocessing : Preprocessing
        The model package's.

    Raises
    ------
    ArchiveOutage
        The root is missing or unreadable.
    """
    digest = None
    try:
        with in_work(image):
            data = _read(root, image)
        digest = content_digest(data)
        with _decoding:
            opened = open_image(data)
            with _large_image_lock if opened.pixel_count > LARGE_IMAGE_PIXELS else nullcontext(), in_work(image):
                pixels = load(opened, preprocessing)
            return LoadedImage(image, digest, pixels, reduced_picture(pixels), repairs=opened.repairs)
    except FileFault as fault:
        return LoadedImage(image, digest, fault=fault)
    except MemoryError:
        return LoadedImage(image, digest, lacks_memory=True)


def has_memory() -> bool:
    """Return whether this host has the memory for an ordinary image, of `ORDINARY_IMAGE_PIXELS` of 16 bits."""
    try:
        np.empty(ORDINARY_IMAGE_PIXELS, np.uint16)
    except MemoryError:
        return False
    return True


def _read(root: Root, image: BatchImage) -> bytes:
    try:
        return read_image_file(root, image.path, expected=(image.size, image.mtime_ns))
    except FileFault as fault:
        if fault.reason is not Reason.VANISHED:
            raise
    # Read again: the archive may have come back after the file was missing and before its root was checked.
    return read_image_file(root, image.path, expected=(image.size, image.mtime_ns))
