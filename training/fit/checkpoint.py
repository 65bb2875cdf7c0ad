"""Checkpoints: the state of a training run, written after every epoch so that an interrupted run continues."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from training.disk import write_atomically
from xray.errors import UsageError

Arrays = list[NDArray[Any]]


@dataclass
class State:
    """Everything that an interrupted run needs to continue as if it had not stopped.

    Attributes
    ----------
    stage, epoch : int
        Finished stages, and finished epochs of the next one.
    history : list of dict
        One row per epoch: stage, epoch, loss, learning_rate, seconds, and with a validation part its loss and AUROC.
    best_loss : float or None
        Lowest validation loss in this stage.
    stale : int
        Epochs since then.
    averaged : int
        Number of epochs whose mean ``kept`` is, if weights are averaged.
    weights, optimizer, kept : list of ndarray
        Trainable weights; variables of the optimizer; best or mean weights so far, if any.
    """

    stage: int = 0
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_loss: float | None = None
    stale: int = 0
    averaged: int = 0
    weights: Arrays = field(default_factory=list)
    optimizer: Arrays = field(default_factory=list)
    kept: Arrays = field(default_factory=list)


_ARRAYS = ("weights", "optimizer", "kept")


def write_checkpoint(path: Path, state: State, fingerprint: str) -> None:
    """Write a checkpoint atomically.

    Parameters
    ----------
    path : Path
        The file; an existing one is replaced.
    state : State
        State of the run.
    fingerprint : str
        Hash of everything that decides the run's outcome; only a run with the same hash can continue from here.

    Raises
    ------
    StorageOutage
        If it cannot be written, for example because the disk is full; the previous checkpoint stays.
    """
    scalars = {key: value for key, value in asdict(state).items() if key not in _ARRAYS}
    text = json.dumps({"fingerprint": fingerprint, **scalars})
    arrays = {f"{name}{number}": value for name in _ARRAYS for number, value in enumerate(getattr(state, name))}
    write_atomically(path, lambda file: np.savez(file, state=np.array(text), **arrays))


def read_checkpoint(path: Path, fingerprint: str) -> State | None:
    """Read a checkpoint, or return None if there is none.

    Raises
    ------
    UsageError
        If it belongs to another run, or is damaged; the message says what to do.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            scalars = json.loads(str(arrays["state"]))
            loaded = {name: _read_arrays(arrays, name) for name in _ARRAYS}
            written_by = scalars.pop("fingerprint")
            state = State(**scalars, weights=loaded["weights"], optimizer=loaded["optimizer"], kept=loaded["kept"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UsageError(f"{path} is damaged ({error}): delete it and the run starts again") from error
    if written_by != fingerprint:
        raise UsageError(
            f"{path} belongs to a run with a different recipe, data, weights or library version: choose a different "
            "--out, or delete it to start again"
        )
    return state


def _read_arrays(arrays: Mapping[str, NDArray[Any]], name: str) -> Arrays:
    count = sum(key.startswith(name) for key in arrays)
    return [arrays[f"{name}{number}"] for number in range(count)]


def get_values(variables: Sequence[Any]) -> Arrays:
    """Return copies of the values of Keras variables."""
    return [np.array(variable.numpy()) for variable in variables]


def assign_values(variables: Sequence[Any], values: Arrays) -> None:
    """Set Keras variables to values, in the same order."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
