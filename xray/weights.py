"""A network's weights in a file that can hold nothing but numbers.

HDF5, one dataset for each weight in the network's order, named ``"<index>"``, stored as float16.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from xray.errors import PackageError


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
