"""Model packages: a folder that holds a card, a network's weights and golden outputs, pinned by SHA-256.

The weights are an HDF5 file that can hold nothing but numbers: one float16 dataset for each weight, in the network's
order, named ``"<index>"``.
"""

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from xray.errors import PackageError, UsageError
from xray.network.card import Card
from xray.network.engine import Inference
from xray.vocabulary import Precision

CARD_FILE, WEIGHTS_FILE, GOLDEN_FILE, README_FILE = "card.json", "weights.h5", "golden.npz", "README.md"

MAX_TOLERANCE = 0.01
"""The largest golden tolerance, in logits: it changes a probability by at most 0.0025 times the calibration's slope."""


@dataclass(frozen=True)
class Golden:
    """Golden images, and the outputs that every engine must give for them.

    Attributes
    ----------
    images : ndarray of uint8, (N, size, size)
    logits : ndarray of float32, (N,)
    cams : ndarray of float32, (N, h, w)
    tolerance : float
        The largest difference of a logit, see :meth:`xray.network.engine.Inference.check_agrees`.
    distances : ndarray of float32, (N,), or None
        None if the network does not compute them.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    cams: NDArray[np.float32]
    tolerance: float
    distances: NDArray[np.float32] | None = None

    @property
    def inference(self) -> Inference:
        """The outputs."""
        return Inference(self.logits, self.cams, self.distances)


@dataclass(frozen=True)
class ModelPackage:
    """A model package on disk, after its card was read and its files were verified.

    Attributes
    ----------
    path : Path
        The directory.
    card : Card
        The package's description.
    digest : str
        SHA-256 of ``card.json``, hexadecimal. It identifies the model version.
    """

    path: Path
    card: Card
    digest: str

    @property
    def weights_path(self) -> Path:
        """Path of the weights file."""
        return self.path / WEIGHTS_FILE

    def require_files(self) -> None:
        """Check, without reading them, that all files are still there.

        Raises
        ------
        PackageError
            If one is missing; names it.
        """
        if not self.path.is_dir():
            raise PackageError(f"no model package at {self.path}")
        for name in self.card.files:
            if not (self.path / name).is_file():
                raise PackageError(f"{self.path / name} is missing")

    def check_files(self) -> None:
        """Compare every file with the SHA-256 on the card.

        Raises
        ------
        PackageError
            If a file is missing or differs; names the file.
        """
        for name in (WEIGHTS_FILE, GOLDEN_FILE, README_FILE):
            if name not in self.card.files:
                raise PackageError(f"{self.path / CARD_FILE} lists no digest for {name}")
        for name, digest in self.card.files.items():
            file = self.path / name
            if Path(name).name != name:
                raise PackageError(f"{self.path / CARD_FILE} names a file outside the package: {name}")
            if not file.is_file():
                raise PackageError(f"{file} is missing")
            if file_sha256(file) != digest:
                raise PackageError(f"{file} differs from its digest on the card: damaged or altered")

    def golden(self, precision: Precision = Precision.FP32) -> Golden:
        """Read the golden inputs, and the outputs in a precision.

        Raises
        ------
        PackageError
            If the package does not allow the precision, the file cannot be read, or its arrays do not have the expected
            shapes, dtypes and ranges.
        """
        path = self.path / GOLDEN_FILE
        lower = None if precision is Precision.FP32 else self.card.lower_precision(precision)
        suffix = "" if lower is None else f"_{precision}"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                tolerance = float(arrays["tolerance"]) if lower is None else lower.tolerance
                distances = None if self.card.distance is None else arrays[f"distances{suffix}"]
                golden = Golden(
                    arrays["images"], arrays[f"logits{suffix}"], arrays[f"cams{suffix}"], tolerance, distances
                )
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise PackageError(f"{path} is not a readable golden file: {error}") from error
        size, count = self.card.input_size, len(golden.images)
        if golden.images.dtype != np.uint8 or golden.images.shape != (count, size, size) or not count:
            raise PackageError(f"{path}: images are not uint8 (N, {size}, {size})")
        if golden.logits.shape != (count,) or golden.cams.ndim != 3 or len(golden.cams) != count:
            raise PackageError(f"{path}: logits or cams do not fit the images")
        if golden.distances is not None and golden.distances.shape != (count,):
            raise PackageError(f"{path}: distances do not fit the images")
        for name, outputs in golden.inference.named().items():
            if outputs.dtype != np.float32 or not np.isfinite(outputs).all():
                raise PackageError(f"{path}: {name} are not finite float32 numbers")
        # Written so that NaN fails too.
        if lower is None and not 0 < golden.tolerance <= MAX_TOLERANCE:
            raise PackageError(
                f"{path}: the tolerance is {golden.tolerance:g}; it must be greater than 0 and at most "
                f"{MAX_TOLERANCE:g}"
            )
        return golden


def load_package(name_or_path: str | Path) -> ModelPackage:
    """Load a model package and verify every file against its card.

    Parameters
    ----------
    name_or_path : str or Path
        Name of an installed package, or a directory: a ``Path``, text with a separator, or an existing directory.

    Returns
    -------
    ModelPackage
        The package; its weights and golden outputs are not read yet.

    Raises
    ------
    PackageError
        If the package does not exist, or a file in it is missing, damaged or of an unknown format; names the file.
    """
    path = _resolve(name_or_path)
    card_path = path / CARD_FILE
    try:
        content = card_path.read_bytes()
    except OSError as error:
        raise PackageError(f"{card_path} cannot be read: {error.strerror}") from error
    try:
        card = Card.from_json(content.decode())
    except (PackageError, UnicodeDecodeError) as error:
        raise PackageError(f"{card_path}: {error}") from error
    package = ModelPackage(path, card, hashlib.sha256(content).hexdigest())
    package.check_files()
    return package


def installed_packages() -> list[str]:
    """Return the names of the packages in ``xray/models``, sorted."""
    root = _models_root()
    return sorted(entry.name for entry in root.iterdir() if (entry / CARD_FILE).is_file()) if root.is_dir() else []


def write_package(
    path: Path,
    card: Card,
    *,
    weights: Iterable[NDArray[Any]],
    golden: Golden,
    readme: str,
    lower_golden: Mapping[Precision, Golden] = MappingProxyType({}),
    extra: Mapping[str, bytes] = MappingProxyType({}),
) -> ModelPackage:
    """Write a model package, whole or not at all.

    Parameters
    ----------
    path : Path
        The directory to make. Its parent must exist; the directory must not.
    card : Card
        The card; its ``files`` are set here.
    weights : iterable of ndarray
        The network's weights, in its order; stored as float16.
    golden : Golden
        Inputs and outputs of the network with its weights as stored.
    readme : str
        The card as human-readable Markdown.
    lower_golden : mapping of Precision to Golden
        Outputs for the same images in each lower precision that the card allows.
    extra : mapping of str to bytes
        Contents of more files, by name; the card pins them like the others.

    Raises
    ------
    UsageError
        If the directory exists: a package is immutable.
    PackageError
        If a weight does not fit into float16.
    """
    if path.exists():
        raise UsageError(f"{path} exists: a model package is never changed, choose a different version")
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write_weights(staging / WEIGHTS_FILE, weights)
        outputs = golden.inference.named()
        for precision, lower in lower_golden.items():
            outputs |= {f"{name}_{precision}": values for name, values in lower.inference.named().items()}
        tolerance = np.float64(golden.tolerance)
        np.savez_compressed(
            staging / GOLDEN_FILE, allow_pickle=False, images=golden.images, tolerance=tolerance, **outputs
        )
        (staging / README_FILE).write_text(readme, encoding="utf-8")
        for name, content in extra.items():
            (staging / name).write_bytes(content)
        digests: Mapping[str, str] = {
            name: file_sha256(staging / name) for name in (WEIGHTS_FILE, GOLDEN_FILE, README_FILE, *extra)
        }
        (staging / CARD_FILE).write_text(replace(card, files=digests).to_json(), encoding="utf-8")
        staging.chmod(0o755)
        os.rename(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return load_package(path)


def write_weights(path: Path, weights: Iterable[NDArray[np.float32]]) -> None:
    """Write a network's weights, in its order, as float16.

    Raises
    ------
    PackageError
        If a value does not fit into float16.
    """
    with h5py.File(path, "w", libver="latest") as file:
        for index, weight in enumerate(weights):
            rounded = round_to_storage(weight).astype(np.float16)
            if not np.isfinite(rounded).all():
                raise PackageError(f"weight {index} does not fit into float16")
            file.create_dataset(str(index), data=rounded, track_times=False)


def read_weights(path: Path, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
    """Read a network's weights.

    Parameters
    ----------
    path : Path
        The weights file.
    shapes : sequence of tuple of int
        The shape of each weight, in the network's order; checked before the weight is read.

    Returns
    -------
    list of ndarray of float32

    Raises
    ------
    PackageError
        If the file is missing or damaged, or its weights have different shapes.
    """
    try:
        with h5py.File(path, "r") as file:
            if len(file) != len(shapes):
                raise PackageError(f"{path} holds {len(file)} weights, the network has {len(shapes)}")
            return [_read_dataset(path, file, str(index), shape) for index, shape in enumerate(shapes)]
    except (OSError, KeyError, RuntimeError) as error:
        raise PackageError(f"{path} is not a readable weights file: {error}") from error


def round_to_storage(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to float16, as :func:`write_weights` does, so that metrics are measured on the weights in the package."""
    with np.errstate(over="ignore"):
        return weight.astype(np.float16).astype(np.float32)


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _models_root() -> Path:
    return Path(str(resources.files("xray"))) / "models"


def _resolve(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    # Installed names come first: the meaning of a name must not depend on the working directory.
    if not isinstance(name_or_path, Path) and text in installed_packages():
        return _models_root() / text
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if isinstance(name_or_path, Path) or os.sep in text:
        raise PackageError(f"no model package at {path}")
    raise PackageError(f"no model package named {text!r}; installed: {', '.join(installed_packages()) or 'none'}")


def _read_dataset(path: Path, file: h5py.File, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    # An HDF5 dataset may link to a different file, which a package must not read.
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise PackageError(f"{path}: weight {name} is missing or a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual or dataset.dtype != np.float16:
        raise PackageError(f"{path}: weight {name} is not a plain float16 array")
    if dataset.shape != shape:
        raise PackageError(f"{path}: weight {name} has shape {dataset.shape}, the network needs {shape}")
    values: NDArray[np.float32] = dataset[...].astype(np.float32)
    if not np.isfinite(values).all():
        raise PackageError(f"{path}: weight {name} is not finite")
    return values
