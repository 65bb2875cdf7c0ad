"""A data set's images as the network's input, decoded once and cached on disk."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.disk import mapped_array, write_atomically
from training.progress import Progress
from xray.archives.files import read_image_file
from xray.errors import FileFault, UsageError
from xray.images.decode import decode_plausible, open_image
from xray.images.preprocessing import Preprocessing
from xray.vocabulary import Reason

CHUNK = 256


def load_images(
    dataset: Dataset, preprocessing: Preprocessing, cache: Path, progress: Progress
) -> tuple[Dataset, NDArray[np.uint8], Counter[str]]:
    """Decode and preprocess the images of a data set as screening does, or read them from the cache.

    Parameters
    ----------
    dataset : Dataset
        N' examples.
    preprocessing : Preprocessing
        Size and geometry of the network's input.
    cache : Path
        Folder of the cache, which is keyed by the files' paths, sizes and times; created if missing.
    progress : Progress
        Shows a progress bar.

    Returns
    -------
    dataset : Dataset
        The N readable examples, with their sizes.
    images : ndarray of uint8, (N, size, size)
        Their images, memory-mapped.
    unreadable : Counter of str
        Number of unreadable images by reason code.

    Raises
    ------
    UsageError
        If no file can be read.
    ArchiveOutage
        If the storage fails.
    """
    cache.mkdir(parents=True, exist_ok=True)
    key = _key(dataset, preprocessing)
    images_path, reasons_path, sizes_path = (cache / f"{key}.{name}.npy" for name in ("images", "reasons", "sizes"))
    if not (images_path.exists() and reasons_path.exists() and sizes_path.exists()):
        _decode_all(dataset, preprocessing, images_path, reasons_path, sizes_path, progress)
    reasons = np.load(reasons_path)
    unreadable = Counter(reasons[reasons != ""].tolist())
    if unreadable.total() == len(dataset):
        raise UsageError(f"no image in {dataset.root} can be read: {_summary(unreadable)}")
    readable = dataset.select(reasons == "")
    sizes = np.load(sizes_path).tolist()
    examples = tuple(replace(e, size=(h, w)) for e, (h, w) in zip(readable.examples, sizes, strict=True))
    return replace(readable, examples=examples), np.load(images_path, mmap_mode="r")[: len(sizes)], unreadable


def decode_example(
    root: Path, preprocessing: Preprocessing, image: str
) -> tuple[NDArray[np.uint8], tuple[int, ...]] | Reason:
    """Return an image as ``uint8 (size, size)``, read as screening reads it, or the reason why it is unreadable.

    The second value is the shape of the decoded image, ``(height, width)``.

    Raises
    ------
    ArchiveOutage
        If the storage fails, so that the file itself may be readable.
    """
    try:
        gray = decode_plausible(open_image(read_image_file(root, image)))
    except FileFault as fault:
        return fault.reason
    return preprocessing.apply(gray), gray.shape


def _summary(unreadable: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in unreadable.most_common())


def _decode_all(
    dataset: Dataset,
    preprocessing: Preprocessing,
    images_path: Path,
    reasons_path: Path,
    sizes_path: Path,
    progress: Progress,
) -> None:
    listed = [example.image for example in dataset.examples]
    decode_one = partial(decode_example, dataset.root, preprocessing)
    unfinished = images_path.with_suffix(f".{os.getpid()}.part")
    shape = (len(listed), preprocessing.size, preprocessing.size)
    reasons: list[str] = []
    sizes: list[tuple[int, ...]] = []
    try:
        # Readable images are stored without gaps, so that they can be mapped as one array.
        images = mapped_array(unfinished, np.uint8, shape)
        with ThreadPoolExecutor() as threads, progress.bar("reading images", len(listed)) as advance:
            for start in range(0, len(listed), CHUNK):
                for decoded in threads.map(decode_one, listed[start : start + CHUNK]):
                    if isinstance(decoded, Reason):
                        reasons.append(decoded)
                    else:
                        images[len(sizes)] = decoded[0]
                        reasons.append("")
                        sizes.append(decoded[1])
                    advance(1)
        images.flush()
        write_atomically(reasons_path, lambda file: np.save(file, np.array(reasons, np.str_)))
        write_atomically(sizes_path, lambda file: np.save(file, np.array(sizes, np.int32).reshape(-1, 2)))
        unfinished.rename(images_path)
    finally:
        unfinished.unlink(missing_ok=True)


def _key(dataset: Dataset, preprocessing: Preprocessing) -> str:
    digest = hashlib.sha256(preprocessing.id.encode())
    for example in dataset.examples:
        try:
            status = os.stat(dataset.root / example.image)
            state = f"{status.st_size}:{status.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(f"{example.image}\0{state}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]
