"""Engines: the same network, the same bytes in, on different runtimes."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xray.errors import PackageError, UsageError
from xray.package import ModelPackage
from xray.settings import EngineName


@dataclass(frozen=True)
class Inference:
    """What the network says of some images.

    Attributes
    ----------
    logits : ndarray of float32, (N,)
        Before calibration; :meth:`xray.card.Card.probability` makes probabilities of them.
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


def open_engine(package: ModelPackage, name: EngineName, cache: Path, threads: int | None = None) -> Engine:
    """Load a package's network into an engine and check it against the golden outputs.

    Parameters
    ----------
    package : ModelPackage
        The model.
    name : {"auto", "openvino", "keras"}
        ``auto`` takes Keras where TensorFlow or JAX has a GPU, else OpenVINO.
    cache : Path
        Folder for derived OpenVINO graphs; made if missing.
    threads : int, optional
        CPU threads to use; all by default.

    Raises
    ------
    UsageError
        If the engine's libraries are not installed, or cannot be imported.
    PackageError
        If the network cannot be loaded, or its outputs differ from the golden ones; says which and by how much.
    StorageOutage
        If the graph cache cannot be used.
    """
    require_engine(name)
    if name == "keras" or (name == "auto" and _keras_sees_gpu()):
        try:
            from xray.engine_keras import KerasEngine
        except ImportError as error:
            raise UsageError(f"the keras engine's libraries are installed but do not load: {error}") from error

        keras_engine = KerasEngine(package, threads)
        check_golden(package, keras_engine)
        return keras_engine
    from xray.engine_openvino import OpenVINOEngine, derive_graph

    graph, fresh = derive_graph(package, cache)
    try:
        engine = OpenVINOEngine(package, graph, threads)
        check_golden(package, engine)
    except PackageError:
        if fresh:
            raise
        # Its digests matched and it is wrong all the same; the weights are the truth, so derive it once more.
        graph, _ = derive_graph(package, cache, again=True)
        engine = OpenVINOEngine(package, graph, threads)
        check_golden(package, engine)
    return engine


def require_engine(name: EngineName) -> None:
    """Check that the libraries an engine needs are installed; imports none of them.

    The base install has what ``openvino`` and ``auto`` need, so only ``keras`` is looked at: it needs the library that
    ``KERAS_BACKEND`` names.

    Raises
    ------
    UsageError
        If the library is not installed; says how to install it.
    """
    if name != "keras":
        return
    backend = _keras_backend()
    if backend not in ("tensorflow", "jax"):
        raise UsageError(f"the keras engine needs TensorFlow or JAX; KERAS_BACKEND is {backend}")
    if not importlib.util.find_spec(backend):
        remedy = "pip install 'bonescreen[tensorflow]'" if backend == "tensorflow" else "pip install jax"
        raise UsageError(f"the keras engine needs TensorFlow or JAX, and {backend} is not installed: {remedy}")


def check_golden(package: ModelPackage, engine: Engine) -> None:
    """Compare an engine's outputs with the package's golden ones.

    Raises
    ------
    PackageError
        If logits or CAMs differ by more than the package's tolerance.
    """
    golden = package.golden()
    found = engine.infer(golden.images)
    if found.cams.shape != golden.cams.shape:
        raise PackageError(
            f"{package.path}: engine {engine.name} gives CAMs {found.cams.shape}, golden ones are {golden.cams.shape}"
        )
    scale = max(1.0, float(np.abs(golden.cams).max()))
    for what, difference in (
        ("logits", np.abs(found.logits - golden.logits).max()),
        ("cams", np.abs(found.cams - golden.cams).max() / scale),
    ):
        # written so that NaN fails too
        if not difference <= golden.tolerance:
            raise PackageError(
                f"{package.path}: engine {engine.name} differs from the golden {what} by {difference:.2g} "
                f"(tolerance {golden.tolerance:.2g})"
            )


def jax_sees_gpu() -> bool:
    """Start JAX, told not to take most of a GPU's memory for itself, and say whether it has a GPU."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return bool(jax.default_backend() == "gpu")


def forward_batches(images: NDArray[Any], size: int) -> Iterator[tuple[slice, NDArray[Any]]]:
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
