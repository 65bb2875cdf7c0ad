"""Engines: the same network, the same bytes in, on different runtimes."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Inference:
    """What the network says of some images.

    Attributes
    ----------
    logits : ndarray of float32, (N,)
        Before calibration; :meth:`xray.network.card.Card.probability` makes probabilities of them.
    cams : ndarray of float32, (N, h, w)
        Signed class activation maps, in units of the logit.
    """

    logits: NDArray[np.float32]
    cams: NDArray[np.float32]


class Engine(Protocol):
    """A runtime that holds one model package's network.

    Attributes
    ----------
    name : str
        ``"openvino"`` or ``"keras"``.
    precision : str
        ``"fp32"``.
    """

    name: str
    precision: str

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        """Run the network.

        Parameters
        ----------
        images : ndarray of uint8, (N, size, size)
            Preprocessed radiographs, any N, zero included.
        """
        ...


def jax_sees_gpu() -> bool:
    """Start JAX, told not to take most of a GPU's memory for itself, and say whether it has a GPU."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return bool(jax.default_backend() == "gpu")


def padded_batches(images: NDArray[Any], size: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Cut inputs into batches of exactly ``size``, the last one padded with zeros.

    Yields
    ------
    tuple of slice and ndarray, (size, ...)
        Where the batch's inputs lie among ``images``, and the batch.
    """
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        place = slice(start, start + len(batch))
        yield place, np.pad(batch, ((0, size - len(batch)), *[(0, 0)] * (batch.ndim - 1)))


def _keras_sees_gpu() -> bool:
    """Ask without importing a framework where there can be no GPU: that costs seconds."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not any(Path("/dev").glob("nvidia[0-9]*")):
        return False
    backend = _keras_backend()
    if backend not in ("tensorflow", "jax") or not importlib.util.find_spec(backend):
        return False
    if backend == "jax":
        return jax_sees_gpu()
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))


def _keras_backend() -> str:
    return os.environ.get("KERAS_BACKEND") or "tensorflow"
