"""The engine interface: what every runtime offers, its batches, and which device it would run on."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xray.errors import PackageError
from xray.vocabulary import Precision

DEVICES = Path("/dev")

KERAS_ENGINE_BACKENDS = ("tensorflow", "jax")
"""Keras backends that compile a function of fixed shape, as the Keras engine needs."""


@dataclass(frozen=True)
class Inference:
    """The network's outputs for some images.

    Attributes
    ----------
    logits : ndarray of float32, (N,)
        Before calibration; :meth:`xray.network.card.Card.probability` turns them into probabilities.
    cams : ndarray of float32, (N, h, w)
        Signed class activation maps, in units of the logit.
    distances : ndarray of float32, (N,), or None
        How unlike the training images each image is, see :class:`xray.network.distance.FeatureDistance`; None if the
        network does not compute it.
    """

    logits: NDArray[np.float32]
    cams: NDArray[np.float32]
    distances: NDArray[np.float32] | None = None

    @classmethod
    def empty(cls, count: int, map_shape: tuple[int, ...], *, distances: bool) -> "Inference":
        """Return arrays for the outputs of some images, to be filled in."""
        return cls(
            np.empty(count, np.float32),
            np.empty((count, *map_shape), np.float32),
            np.empty(count, np.float32) if distances else None,
        )

    def named(self) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by name, in the network's order, without those that it does not compute."""
        outputs = {"logits": self.logits, "cams": self.cams}
        return outputs if self.distances is None else {**outputs, "distances": self.distances}

    def check_agrees(self, expected: "Inference", tolerance: float, *, rounded: bool = False) -> None:
        """Compare these outputs with others for the same images.

        Parameters
        ----------
        expected : Inference
            The outputs to compare with.
        tolerance : float
            The largest difference of a logit; for a CAM or a distance, relative to the largest absolute value of the
            expected ones if that is over 1.
        rounded : bool
            Both are computed in a lower precision. A finer map's attention amplifies what is rounded, most where there
            is little to see. So of CAMs the mean difference counts, relative to the mean absolute value if that is over
            1, and in half of the images.

        Raises
        ------
        PackageError
            If shapes differ, or values by more than the tolerance; says which and by how much.
        """
        if self.cams.shape != expected.cams.shape:
            raise PackageError(f"the cams have shape {self.cams.shape}, not {expected.cams.shape}")
        if (self.distances is None) != (expected.distances is None):
            raise PackageError(f"there are {'no ' if self.distances is None else ''}distances, unlike expected")
        found = self.named()
        for name, wanted in expected.named().items():
            differences, sizes = np.abs(found[name] - wanted), np.abs(wanted)
            if rounded and name == "cams":
                difference = np.median(differences.mean(axis=(1, 2)) / np.maximum(1.0, sizes.mean(axis=(1, 2))))
            else:
                difference = differences.max() / (1.0 if name == "logits" else max(1.0, float(sizes.max())))
            # Written so that NaN fails too.
            if not difference <= tolerance:
                raise PackageError(f"the {name} differ by {difference:.2g} (tolerance {tolerance:.2g})")


def stored_cams(cams: NDArray[np.floating]) -> NDArray[np.float16]:
    """Return CAMs as float16, as the database keeps them.

    Where all evidence is in one cell of a finer map, its value is the number of cells times that, and may be beyond
    float16: it becomes the largest number of float16, as infinity cannot be drawn.
    """
    limits = np.finfo(np.float16)
    stored: NDArray[np.float16] = np.clip(cams, limits.min, limits.max).astype(np.float16)
    return stored


class PendingInference(Protocol):
    """The outputs for some images that an engine is computing, perhaps together with others."""

    def result(self) -> Inference:
        """Wait for the outputs; in the order of the images."""
        ...


class Engine(Protocol):
    """A runtime that has loaded the network of one model package.

    All engines take the same bytes and give the same outputs, within the package's tolerance.

    Attributes
    ----------
    name : str
        ``"openvino"`` or ``"keras"``.
    precision : Precision
        What it computes the network in.
    batch : int
        Images that it computes together; it is fastest with multiples of it.
    """

    name: str
    precision: Precision
    batch: int

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        """Run the network.

        Parameters
        ----------
        images : ndarray of uint8, (N, size, size)
            Preprocessed radiographs; N may be 0.

        Returns
        -------
        Inference
            The outputs, in the order of the images.
        """
        ...

    def submit(self, images: NDArray[np.uint8]) -> PendingInference:
        """Start to run the network; returns when the engine is ready for more images. Call it from one thread only.

        Parameters
        ----------
        images : ndarray of uint8, (N, size, size)
            As for :meth:`infer`; not to be changed until the outputs are there.
        """
        ...


def padded_batches(images: NDArray[Any], size: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Split inputs into batches of exactly ``size``; the last one is padded with zeros.

    Parameters
    ----------
    images : ndarray, (N, ...)
        The inputs.
    size : int
        The batch size.

    Yields
    ------
    tuple of slice and ndarray, (size, ...)
        Which of ``images`` the batch holds, and the batch: a view, unless it is padded.
    """
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        rows, missing = slice(start, start + len(batch)), size - len(batch)
        yield rows, np.pad(batch, ((0, missing), *[(0, 0)] * (batch.ndim - 1))) if missing else batch


def keras_backend() -> str:
    """Return the name of the backend that Keras would use in this process, without importing Keras."""
    return os.environ.get("KERAS_BACKEND") or "tensorflow"


def may_have_gpu() -> bool:
    """Say whether this machine has a GPU and the library of Keras' backend, without importing that.

    A process that imports it cannot be forked, and loses seconds.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not any(DEVICES.glob("nvidia[0-9]*")):
        return False
    backend = keras_backend()
    return backend in KERAS_ENGINE_BACKENDS and importlib.util.find_spec(backend) is not None


def keras_has_gpu() -> bool:
    """Start Keras' backend, if there may be a GPU, and say whether it runs on one; not in a process that forks."""
    if not may_have_gpu():
        return False
    if keras_backend() == "jax":
        return jax_has_gpu()
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))


def jax_has_gpu() -> bool:
    """Start JAX and say whether it has a GPU; JAX then allocates GPU memory as needed, not most of it at once."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return bool(jax.default_backend() == "gpu")
