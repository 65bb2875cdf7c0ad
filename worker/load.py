"""Decode a batch's files in threads, ahead of the network."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.ledger import WorkItem
from worker.watchdog import decoding
from xray.archives.files import content_digest, read_image_file
from xray.errors import FileFault, StorageOutage
from xray.images.decode import pixel_count
from xray.images.preprocessing import Preprocessing, load
from xray.vocabulary import Reason

THREADS = max(2, min(8, os.cpu_count() or 2))

LARGE_FILM = 20_000_000
"""Pixels over which an image is decoded alone: decoding takes several bytes a pixel (`xray.images.decode`)."""

_ONE_LARGE_FILM = threading.Lock()


@dataclass(frozen=True)
class Loaded:
    """One file as the network takes it, or the fault that keeps it from that.

    Parameters
    ----------
    item : WorkItem
        The image.
    digest : bytes or None
        SHA-256 of the file's bytes, when they could be read.
    pixels : ndarray of uint8, shape (size, size), or None
        The preprocessed film.
    fault : FileFault or None
        Why there are no pixels.
    """

    item: WorkItem
    digest: bytes | None = None
    pixels: NDArray[np.uint8] | None = None
    fault: FileFault | None = None


def load_images(
    root: Path, items: Sequence[WorkItem], preprocessing: Preprocessing, group: int
) -> Iterator[list[Loaded]]:
    """Yield the images of a batch in groups, in order, while threads decode the next ones.

    At most two groups are held decoded, and of the films over ``LARGE_FILM`` one is decoded at a time, so memory
    depends neither on the batch's size nor on how many of its films are large.

    Parameters
    ----------
    root : Path
        The archive's root on this host.
    items : sequence of WorkItem
        What to load.
    preprocessing : Preprocessing
        The model package's.
    group : int
        Images a group, at least 1.

    Raises
    ------
    ArchiveOutage
        The root is away.
    StorageOutage
        This host is out of memory.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="decode") as pool:
        ahead: list[Future[Loaded]] = []
        position = 0
        try:
            while position < len(items) or ahead:
                while position < len(items) and len(ahead) < 2 * group:
                    ahead.append(pool.submit(_load, root, items[position], preprocessing))
                    position += 1
                ready, ahead = [future.result() for future in ahead[:group]], ahead[group:]
                yield ready
        finally:
            for future in ahead:
                future.cancel()


def _load(root: Path, item: WorkItem, preprocessing: Preprocessing) -> Loaded:
    digest = None
    try:
        data = _read(root, item)
        digest = content_digest(data)
        with _ONE_LARGE_FILM if pixel_count(data) > LARGE_FILM else nullcontext(), decoding():
            return Loaded(item, digest, load(data, preprocessing))
    except FileFault as fault:
        return Loaded(item, digest, fault=fault)
    except MemoryError as error:
        raise StorageOutage("this host has no memory left to decode an image") from error


def _read(root: Path, item: WorkItem) -> bytes:
    try:
        return read_image_file(root, item.path, expected=(item.size, item.mtime_ns))
    except FileFault as fault:
        if fault.reason is not Reason.VANISHED:
            raise
    # An archive that came back between the file's absence and the look at its root has the file now.
    return read_image_file(root, item.path, expected=(item.size, item.mtime_ns))
