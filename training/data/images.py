"""A data set's radiographs as the network will see them, decoded once and kept on disk."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.disk import mapped_array, write_whole
from xray.archives.files import read_image_file
from xray.errors import FileFault, UsageError
from xray.images.decode import decode
from xray.images.preprocessing import Preprocessing
from xray.vocabulary import Reason

CHUNK = 256


def load_images(
    dataset: Dataset, preprocessing: Preprocessing, cache: Path
) -> tuple[Dataset, NDArray[np.uint8], Counter[str]]:
    """Decode and preprocess what can be read, as screening does.

    Parameters
    ----------
    dataset : Dataset
        What to read.
    preprocessing : Preprocessing
        The same as in screening.
    cache : Path
        Folder that keeps the result, under a hash of the files' paths, sizes and times; made if missing.

    Returns
    -------
    dataset : Dataset
        The N examples that could be read.
    images : ndarray of uint8, (N, size, size)
        Their images, mapped from disk.
    skipped : Counter of str
        Files left out, by reason code.

    Raises
    ------
    UsageError
        If no file can be read.
    ArchiveOutage
        If the storage fails.
    """
    cache.mkdir(parents=True, exist_ok=True)
    key = _key(dataset, preprocessing)
    images_path, reasons_path = cache / f"{key}.images.npy", cache / f"{key}.reasons.npy"
    if not (images_path.exists() and reasons_path.exists()):
        _decode_all(dataset, preprocessing, images_path, reasons_path)
    reasons = np.load(reasons_path)
    skipped = Counter(reasons[reasons != ""].tolist())
    if skipped.total() == len(dataset):
        raise UsageError(f"none of the {len(dataset):,} images below {dataset.root} can be read: {_summary(skipped)}")
    return dataset.select(reasons == ""), np.load(images_path, mmap_mode="r")[: reasons.tolist().count("")], skipped


def decode_example(root: Path, preprocessing: Preprocessing, image: str) -> NDArray[np.uint8] | Reason:
    """Return one film's ``uint8 (size, size)``, read as screening reads it, or why there is none.

    Raises
    ------
    ArchiveOutage
        If the storage fails, which says nothing of the file.
    """
    try:
        return preprocessing.apply(decode(read_image_file(root, image)))
    except FileFault as fault:
        return fault.reason


def _summary(skipped: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in skipped.most_common())


def _decode_all(dataset: Dataset, preprocessing: Preprocessing, images_path: Path, reasons_path: Path) -> None:
    listed = [example.image for example in dataset.examples]
    look = partial(decode_example, dataset.root, preprocessing)
    unfinished = images_path.with_suffix(f".{os.getpid()}.part")
    shape = (len(listed), preprocessing.size, preprocessing.size)
    reasons: list[str] = []
    try:
        # The readable ones come first, one behind the other, so that they can be mapped as one array.
        images = mapped_array(unfinished, np.uint8, shape)
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(listed), CHUNK):
                for found in threads.map(look, listed[start : start + CHUNK]):
                    if not isinstance(found, Reason):
                        images[reasons.count("")] = found
                    reasons.append("" if not isinstance(found, Reason) else found)
        images.flush()
        write_whole(reasons_path, lambda file: np.save(file, np.array(reasons, np.str_)))
        unfinished.rename(images_path)
    finally:
        unfinished.unlink(missing_ok=True)


def _key(dataset: Dataset, preprocessing: Preprocessing) -> str:
    digest = hashlib.sha256(preprocessing.id.encode())
    for example in dataset.examples:
        try:
            found = os.stat(dataset.root / example.image)
            state = f"{found.st_size}:{found.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(f"{example.image}\0{state}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]
