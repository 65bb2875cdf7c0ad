"""Engines: the same network, the same bytes in, on different runtimes."""

import importlib.util
from pathlib import Path

import numpy as np

from xray.errors import PackageError, UsageError
from xray.network.engine import Engine, _keras_backend, _keras_sees_gpu
from xray.network.package import ModelPackage
from xray.settings import EngineName


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
            from xray.network.keras_engine import KerasEngine
        except ImportError as error:
            raise UsageError(f"the keras engine's libraries are installed but do not load: {error}") from error

        keras_engine = KerasEngine(package, threads)
        check_golden(package, keras_engine)
        return keras_engine
    from xray.network.openvino_engine import OpenVINOEngine
    from xray.network.openvino_graph import derive_graph

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
