"""Core-milliseconds that an image costs beside the network, by format and part.

Reads each file as the worker does, hashes it, decodes it and preprocesses it, in one thread, and measures the process's
CPU time. The rounds take the formats in turn, as the machine's speed changes meanwhile. Prints medians over files and
rounds. The files of each format are made from the JPEGs in the folders: those of 2,000 pixels and more serve as they
are, others are resized, with noise added where they are enlarged, as a detector has noise in each pixel.
"""

import io
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite

from xray.archives.files import content_digest, read_image_file
from xray.errors import FileFault
from xray.images.decode import decode, decode_plausible, open_image
from xray.images.preprocessing import Preprocessing

LARGE = 2800
"""Long side of the large images, pixels, where the folders hold none of at least 2,000."""

PARTS = ("read", "hash", "decode", "preprocess")


@dataclass(frozen=True, slots=True)
class Cost:
    """Core-milliseconds an image, by part: medians over files and rounds; `total` is the median of the sums."""

    read: float
    hash: float
    decode: float
    preprocess: float
    total: float
    images: int
    megabytes: float


def make_files(folders: Iterable[Path], target: Path, count: int) -> dict[str, list[Path]]:
    """Make the files of each format in a folder and return their paths, by the format's name.

    Parameters
    ----------
    folders : iterable of Path
        Folders with JPEGs.
    target : Path
        An empty folder.
    count : int
        Files of each format; half as many of the large ones, at least one.

    Raises
    ------
    ValueError
        The folders hold no JPEG that can be read.
    """
    small, large = _pick([path for folder in folders for path in sorted(folder.rglob("*.jp*g"))], count)
    if not small + large:
        raise ValueError("the folders hold no JPEG that can be read")
    few = max(1, count // 2)
    written = [path.read_bytes() for path in large[:few]]
    large_gray = [decode(data) for data in written] or [_resized(decode(p.read_bytes()), LARGE) for p in small[:few]]
    small_gray = [decode(path.read_bytes()) for path in small or large]
    deep = [_twelve_bits(gray) for gray in large_gray]
    made: dict[str, list[bytes]] = {
        "JPEG, 640 px": [_encoded(_resized(gray, 640), "JPEG", quality=90) for gray in small_gray],
        "PNG, 512 px, gray": [_encoded(_resized(gray, 512), "PNG") for gray in small_gray],
        "PNG, 512 px, RGB": [_encoded(np.dstack([_resized(gray, 512)] * 3), "PNG") for gray in small_gray],
        "JPEG, 2,800 px": written or [_encoded(gray, "JPEG", quality=90) for gray in large_gray],
        "PNG, 2,800 px, 16 bits": [_encoded(pixels, "PNG") for pixels in deep],
        "DICOM, uncompressed": [_dicom(pixels) for pixels in deep],
        "DICOM, JPEG 2000": [_dicom(pixels, _jpeg_2000) for pixels in deep],
    }
    paths: dict[str, list[Path]] = {}
    for number, (name, files) in enumerate(made.items()):
        paths[name] = [target / f"{number}-{index}" for index in range(len(files))]
        for path, data in zip(paths[name], files, strict=True):
            path.write_bytes(data)
    return paths


def measure(files: dict[str, list[Path]], preprocessing: Preprocessing, rounds: int) -> dict[str, Cost]:
    """Measure what an image of each format costs.

    Parameters
    ----------
    files : dict of str to list of Path
        The files by format, as `make_files` returns them.
    preprocessing : Preprocessing
        The model package's.
    rounds : int
        How often each file is measured, after a first time that does not count.
    """
    seen: dict[str, list[list[float]]] = {name: [] for name in files}
    for number in range(rounds + 1):
        for name, paths in files.items():
            spent = [_spent(path, preprocessing) for path in paths]
            # The first round imports the decoders and fills the caches.
            seen[name] += spent if number else []
    return {name: _cost(files[name], spent) for name, spent in seen.items()}


def _spent(path: Path, preprocessing: Preprocessing) -> list[float]:
    status = path.stat()
    times = [time.process_time()]
    data = read_image_file(path.parent, path.name, expected=(status.st_size, status.st_mtime_ns))
    times.append(time.process_time())
    content_digest(data)
    times.append(time.process_time())
    gray = decode_plausible(open_image(data))
    times.append(time.process_time())
    preprocessing.apply(gray)
    times.append(time.process_time())
    return [1000 * (end - start) for start, end in pairwise(times)]


def _cost(paths: Sequence[Path], spent: list[list[float]]) -> Cost:
    parts = [statistics.median(part) for part in zip(*spent, strict=True)]
    megabytes = statistics.median(path.stat().st_size for path in paths) / 1e6
    read, hashed, decoded, preprocessed = parts
    total = statistics.median(map(sum, spent))
    return Cost(read, hashed, decoded, preprocessed, total, len(paths), megabytes)


def _pick(paths: list[Path], count: int) -> tuple[list[Path], list[Path]]:
    small: list[Path] = []
    large: list[Path] = []
    for path in paths:
        try:
            pixels = decode_plausible(open_image(path.read_bytes()))
        except FileFault:
            continue
        kept = large if max(pixels.shape) >= 2000 else small
        if len(kept) < count:
            kept.append(path)
        if len(small) == len(large) == count:
            break
    return small, large


def _resized(gray: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    scale = side / max(gray.shape)
    size = round(gray.shape[1] * scale), round(gray.shape[0] * scale)
    resized = np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BICUBIC))
    if scale <= 1.5:
        return resized
    noise = np.random.default_rng(side).normal(0, 2, resized.shape)
    return np.rint(resized + noise).clip(0, 255).astype(np.uint8)


def _twelve_bits(gray: NDArray[np.uint8]) -> NDArray[np.uint16]:
    noise = np.random.default_rng(12).normal(0, 8, gray.shape)
    return np.rint(gray * 16.0 + noise).clip(0, 4095).astype(np.uint16)


def _encoded(pixels: NDArray[np.generic], file_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def _jpeg_2000(pixels: NDArray[np.uint16]) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, bitspersample=12))


def _dicom(pixels: NDArray[np.uint16], encode: Callable[[NDArray[np.uint16]], bytes] | None = None) -> bytes:
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = uid.ComputedRadiographyImageStorage, "1.2.3"
    data_set.Modality, data_set.PhotometricInterpretation = "CR", "MONOCHROME2"
    data_set.Rows, data_set.Columns, data_set.SamplesPerPixel = *pixels.shape, 1
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = 16, 12, 11, 0
    data_set.WindowCenter, data_set.WindowWidth = 2048, 4096
    data_set.PixelData = pixels.astype("<u2").tobytes() if encode is None else encapsulate([encode(pixels)])
    data_set["PixelData"].VR = "OW" if encode is None else "OB"
    data_set["PixelData"].is_undefined_length = encode is not None
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if encode is None else uid.JPEG2000Lossless
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    buffer = io.BytesIO()
    dcmwrite(buffer, data_set, enforce_file_format=True)
    return buffer.getvalue()
