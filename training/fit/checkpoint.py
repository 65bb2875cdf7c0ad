"""Where a training run stands, on disk after every epoch, so that a killed run goes on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from training.disk import write_whole
from xray.errors import UsageError

Arrays = list[NDArray[Any]]


@dataclass
class State:
    """How far a run is, and what it needs to go on as if it had not stopped.

    Attributes
    ----------
    stage, epoch : int
        Stages done, and epochs done in the one after them.
    history : list of dict
        A row for each epoch: stage, epoch, loss, learning_rate, seconds, and with a validation part its loss and AUROC.
    best_loss : float or None
        Of this stage's epochs, on the validation part.
    stale : int
        Epochs since then.
    averaged : int
        Epochs in ``kept``, if weights are averaged.
    weights, optimizer, kept : list of ndarray
        What learns, as it is now; the optimizer's variables; and the best or mean weights so far, if any.
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


def write_state(path: Path, state: State, fingerprint: str) -> None:
    """Write a state, whole or not at all.

    Parameters
    ----------
    path : Path
        The checkpoint; one that is there is replaced.
    state : State
        Where the run stands.
    fingerprint : str
        Of all that decides the run's outcome: only a run with the same one may go on from here.

    Raises
    ------
    StorageOutage
        If it cannot be written, as when the disk is full; the checkpoint before it stays.
    """
    plain = {key: value for key, value in asdict(state).items() if key not in _ARRAYS}
    text = json.dumps({"fingerprint": fingerprint, **plain})
    arrays = {f"{name}{number}": value for name in _ARRAYS for number, value in enumerate(getattr(state, name))}
    write_whole(path, lambda file: np.savez(file, state=np.array(text), **arrays))


def read_state(path: Path, fingerprint: str) -> State | None:
    """Read a state, or None if there is none.

    Raises
    ------
    UsageError
        If it is another run's, or damaged; says what to do.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            plain = json.loads(str(arrays["state"]))
            loaded = {name: _numbered(arrays, name) for name in _ARRAYS}
            found = plain.pop("fingerprint")
            state = State(**plain, weights=loaded["weights"], optimizer=loaded["optimizer"], kept=loaded["kept"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UsageError(f"{path} is damaged ({error}): delete it, and the run begins anew") from error
    if found != fingerprint:
        raise UsageError(
            f"{path} is of a run with another recipe, data, weights or library version: "
            "choose another --out, or delete it"
        )
    return state


def _numbered(arrays: Mapping[str, NDArray[Any]], name: str) -> Arrays:
    count = sum(key.startswith(name) for key in arrays)
    return [arrays[f"{name}{number}"] for number in range(count)]


def copies(variables: Sequence[Any]) -> Arrays:
    """Return the values of Keras variables."""
    return [np.array(variable.numpy()) for variable in variables]


def assign(variables: Sequence[Any], values: Arrays) -> None:
    """Set Keras variables to these values, one for one."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
