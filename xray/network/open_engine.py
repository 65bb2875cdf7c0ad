"""Choose an engine, load a model package into it, and check its outputs against the package's golden ones."""

import importlib.util
from pathlib import Path

from xray.errors import MissingExtra, PackageError, UsageError
from xray.network.engine import KERAS_ENGINE_BACKENDS, Engine, keras_backend, keras_has_gpu
from xray.network.package import ModelPackage
from xray.network.precision import choose_precision, machine_precisions
from xray.settings import EngineName, Settings
from xray.vocabulary import Precision


def open_engine(
    package: ModelPackage,
    name: EngineName,
    cache: Path,
    precision: Precision = Precision.FP32,
    threads: int | None = None,
) -> Engine:
    """Load a package's network into an engine and check it against the golden outputs.

    Parameters
    ----------
    package : ModelPackage
        The model.
    name : {"auto", "openvino", "keras"}
        ``auto`` chooses Keras where TensorFlow or JAX has a GPU, and OpenVINO elsewhere; for INT8 always OpenVINO.
    cache : Path
        Folder for derived OpenVINO graphs; made if missing.
    precision : Precision
        What to compute the network in.
    threads : int, optional
        CPU threads to use; by default as many as this process may.

    Returns
    -------
    Engine
        An engine whose outputs for the golden images are the golden ones, within the precision's tolerance.

    Raises
    ------
    UsageError
        If the engine's libraries are not installed, or cannot be imported, or it does not compute the precision.
    PackageError
        If the package does not allow the precision, the network cannot be loaded, or its outputs differ from the golden
        ones; says which and by how much.
    StorageOutage
        If the graph cache cannot be used.
    """
    require_engine(name)
    # What reads them would name its own file, such as a graph that is to be derived, and not the cause.
    package.require_files()
    if precision is not Precision.FP32:
        package.card.lower_precision(precision)
    if name == "keras" or (name == "auto" and precision is not Precision.INT8 and keras_has_gpu()):
        return _open_keras(package, precision, threads)
    return _open_openvino(package, cache, precision, threads)


def open_engine_here(package: ModelPackage, settings: Settings, name: EngineName | None = None) -> Engine:
    """Open the engine that `screen` would use on this machine, or the one named, as :func:`open_engine` does.

    The precision is the one in the settings, or the fastest that this machine has and the package allows.
    """
    engine = name or settings.engine
    precision = choose_precision(package, settings.precision, machine_precisions(engine))
    return open_engine(package, engine, settings.graph_cache, precision)


def require_engine(name: EngineName) -> None:
    """Check that the libraries of an engine are installed, without importing them.

    The base install has the libraries of ``openvino`` and ``auto``. ``keras`` needs the library that
    ``KERAS_BACKEND`` names.

    Raises
    ------
    UsageError
        If the library is not installed; says how to install it.
    """
    if name != "keras":
        return
    backend = keras_backend()
    if backend not in KERAS_ENGINE_BACKENDS:
        raise UsageError(f"the keras engine needs TensorFlow or JAX; KERAS_BACKEND is {backend}")
    if not importlib.util.find_spec(backend):
        missing = f"the keras engine needs TensorFlow or JAX, and {backend} is not installed"
        if backend == "tensorflow":
            raise MissingExtra(missing, "tensorflow")
        raise UsageError(f"{missing}; install it in bonescreen's environment: .venv/bin/python -m pip install jax")


def check_golden(package: ModelPackage, engine: Engine) -> None:
    """Compare an engine's outputs with the package's golden ones.

    Raises
    ------
    PackageError
        If an output differs by more than the package's tolerance.
    """
    golden = package.golden(engine.precision)
    try:
        rounded = engine.precision is not Precision.FP32
        engine.infer(golden.images).check_agrees(golden.inference, golden.tolerance, rounded=rounded)
    except PackageError as error:
        raise PackageError(
            f"{package.path}: engine {engine.name} does not give the golden outputs in {engine.precision}: {error}"
        ) from error


def _open_keras(package: ModelPackage, precision: Precision, threads: int | None) -> Engine:
    try:
        from xray.network.keras_engine import KerasEngine
    except ImportError as error:
        raise UsageError(f"the keras engine's libraries are installed but do not load: {error}") from error

    engine = KerasEngine(package, precision, threads)
    check_golden(package, engine)
    return engine


def _open_openvino(package: ModelPackage, cache: Path, precision: Precision, threads: int | None) -> Engine:
    from xray.network.openvino_graph import derive_graph

    graph, fresh = derive_graph(package, cache)
    try:
        return _compile_openvino(package, graph, precision, threads)
    except PackageError:
        if fresh:
            raise
        # Its digests match and its outputs are wrong all the same: only the weights can be trusted.
        graph, _ = derive_graph(package, cache, again=True)
        return _compile_openvino(package, graph, precision, threads)


def _compile_openvino(package: ModelPackage, graph: Path, precision: Precision, threads: int | None) -> Engine:
    from xray.network.openvino_engine import OpenVINOEngine
    from xray.network.openvino_graph import read_network

    try:
        engine = OpenVINOEngine(read_network(package, graph, precision), precision, threads)
    except PackageError as error:
        raise PackageError(f"{graph}: {error}") from error
    check_golden(package, engine)
    return engine
