"""A network's weights in a file that can hold nothing but numbers.

HDF5, one dataset for each weight in the network's order, named ``"<index>"``, stored as float16.
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


def write_weights(path: Path, weights: Iterable[NDArray[np.float32]]) -> None:
    """Write weights as float16.

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
    """Read the weights of a network that wants exactly these shapes, cast to float32.

    Raises
    ------
    PackageError
        If the file is missing, damaged, or holds other weights; shapes are checked before anything is read.
    """
    try:
        with h5py.File(path, "r") as file:
            if len(file) != len(shapes):
                raise PackageError(f"{path} holds {len(file)} weights, the network has {len(shapes)}")
            return [_read_dataset(path, file, str(index), shape) for index, shape in enumerate(shapes)]
    except (OSError, KeyError, RuntimeError) as error:
        raise PackageError(f"{path} is not a readable weights file: {error}") from error


def round_to_storage(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to what :func:`write_weights` stores, so that metrics are of the weights that ship."""
    with np.errstate(over="ignore"):
        return weight.astype(np.float16).astype(np.float32)


def _read_dataset(path: Path, file: h5py.File, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    # HDF5 can point into other files; a package must not.
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise PackageError(f"{path}: weight {name} is missing or a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual or dataset.dtype != np.float16:
        raise PackageError(f"{path}: weight {name} is not a plain float16 array")
    if dataset.shape != shape:
        raise PackageError(f"{path}: weight {name} has shape {dataset.shape}, the network wants {shape}")
    values: NDArray[np.float32] = dataset[...].astype(np.float32)
    if not np.isfinite(values).all():
        raise PackageError(f"{path}: weight {name} is not finite")
    return values


CARD_FILE, WEIGHTS_FILE, GOLDEN_FILE, README_FILE = "card.json", "weights.h5", "golden.npz", "README.md"

MAX_TOLERANCE = 0.01
"""The widest golden tolerance: in logits, it moves no probability by more than 0.0025 times the calibration's slope."""


@dataclass(frozen=True)
class Golden:
    """Inputs and the outputs that every engine must give for them.

    Attributes
    ----------
    images : ndarray of uint8, (N, size, size)
    logits : ndarray of float32, (N,)
    cams : ndarray of float32, (N, h, w)
    tolerance : float
        How far a logit may lie off; for a CAM, relative to the largest absolute value in ``cams`` if that is over 1.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    cams: NDArray[np.float32]
    tolerance: float


@dataclass(frozen=True)
class ModelPackage:
    """A model package on disk, its card read and its files verified.

    Attributes
    ----------
    path : Path
        The directory.
    card : Card
        What it says of itself.
    digest : str
        SHA-256 of ``card.json``, hexadecimal: the model version's identity.
    """

    path: Path
    card: Card
    digest: str

    @property
    def weights_path(self) -> Path:
        """Where the weights lie."""
        return self.path / WEIGHTS_FILE

    def check_files(self) -> None:
        """Compare every file with the SHA-256 on the card.

        Raises
        ------
        PackageError
            If a file is missing or differs; it is named.
        """
        for name in (WEIGHTS_FILE, GOLDEN_FILE, README_FILE):
            if name not in self.card.files:
                raise PackageError(f"{self.path / CARD_FILE} does not pin {name}")
        for name, wanted in self.card.files.items():
            file = self.path / name
            if Path(name).name != name:
                raise PackageError(f"{self.path / CARD_FILE} names a file outside the package: {name}")
            if not file.is_file():
                raise PackageError(f"{file} is missing")
            if file_sha256(file) != wanted:
                raise PackageError(f"{file} differs from its digest on the card: damaged or altered")

    def golden(self) -> Golden:
        """Read the golden inputs and outputs.

        Raises
        ------
        PackageError
            If the file is unreadable or holds something else.
        """
        path = self.path / GOLDEN_FILE
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                golden = Golden(arrays["images"], arrays["logits"], arrays["cams"], float(arrays["tolerance"]))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise PackageError(f"{path} is not a readable golden file: {error}") from error
        size, count = self.card.input_size, len(golden.images)
        if golden.images.dtype != np.uint8 or golden.images.shape != (count, size, size) or not count:
            raise PackageError(f"{path}: images are not uint8 (N, {size}, {size})")
        if golden.logits.shape != (count,) or golden.cams.ndim != 3 or len(golden.cams) != count:
            raise PackageError(f"{path}: logits or cams do not fit the images")
        for name, outputs in (("logits", golden.logits), ("cams", golden.cams)):
            if outputs.dtype != np.float32 or not np.isfinite(outputs).all():
                raise PackageError(f"{path}: {name} are not finite float32 numbers")
        # written so that NaN fails too
        if not 0 < golden.tolerance <= MAX_TOLERANCE:
            raise PackageError(f"{path}: a tolerance of {golden.tolerance:g} is not in (0, {MAX_TOLERANCE:g}]")
        return golden


def load_package(name_or_path: str | Path) -> ModelPackage:
    """Load a model package and verify every file against its card.

    Parameters
    ----------
    name_or_path : str or Path
        Name of an installed package, or a directory: a ``Path``, text with a separator, or an existing directory.

    Raises
    ------
    PackageError
        If there is no such package, or anything in it is missing, damaged or not understood; the file is named.
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
    """Return the names of the packages that ship in ``xray/models``, sorted."""
    root = _models_root()
    return sorted(entry.name for entry in root.iterdir() if (entry / CARD_FILE).is_file()) if root.is_dir() else []


def write_package(
    path: Path,
    card: Card,
    *,
    weights: Iterable[NDArray[Any]],
    golden: Golden,
    readme: str,
    extra: Mapping[str, bytes] = MappingProxyType({}),
) -> ModelPackage:
    """Write a model package; it appears whole or not at all.

    Parameters
    ----------
    path : Path
        The directory to make; its parent must exist, it must not.
    card : Card
        The card; its ``files`` are filled in here.
    weights : iterable of ndarray
        The network's weights in its order; stored as float16.
    golden : Golden
        Inputs and outputs of the network with the weights as stored.
    readme : str
        The card for people, Markdown.
    extra : mapping of str to bytes
        More files, by name; pinned like the others.

    Raises
    ------
    UsageError
        If the directory exists: a package is immutable.
    """
    if path.exists():
        raise UsageError(f"{path} exists: a model package is never changed, choose another version")
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write_weights(staging / WEIGHTS_FILE, weights)
        np.savez_compressed(
            staging / GOLDEN_FILE,
            images=golden.images,
            logits=golden.logits,
            cams=golden.cams,
            tolerance=np.float64(golden.tolerance),
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


def _models_root() -> Path:
    return Path(str(resources.files("xray"))) / "models"


def _resolve(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    # Installed names first: what a name means must not depend on the folder somebody stands in.
    if not isinstance(name_or_path, Path) and text in installed_packages():
        return _models_root() / text
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if isinstance(name_or_path, Path) or os.sep in text:
        raise PackageError(f"no model package at {path}")
    raise PackageError(f"no model package named {text!r}; installed: {', '.join(installed_packages()) or 'none'}")


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
