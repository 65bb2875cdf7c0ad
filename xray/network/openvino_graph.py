"""A package's network as an OpenVINO graph: derived from the weights, kept in a cache, and checked against them.

``python -m xray.network.openvino_graph PACKAGE OUT`` derives one graph, in a process of its own: Keras writes it on its
OpenVINO backend, a process has one Keras backend, and a worker should not keep Keras in memory. TensorFlow is not
needed.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as opset
from numpy.typing import NDArray

from xray.errors import BonescreenError, PackageError, StorageOutage, UsageError
from xray.network.card import Card
from xray.network.int8 import INT8_FILE, quantize_graph, read_quantization
from xray.network.openvino_engine import OpenVINOEngine
from xray.network.package import ModelPackage, file_sha256, load_package, read_weights
from xray.vocabulary import Precision

if TYPE_CHECKING:
    from xray.network.builder import DataFormat

GRAPH_FILE, GRAPH_WEIGHTS_FILE, DIGESTS_FILE = "network.xml", "network.bin", "SHA256SUMS"

STAGING_PREFIX = ".deriving-"

WEIGHT_PREFIX = "weight_"
FLOAT32_MARK = "precise_0"
"""The key of an operation's runtime information that keeps OpenVINO from computing it in a lower precision; it
is written to the graph's file, and has an effect when that is read."""


def derive_graph(package: ModelPackage, cache: Path, *, again: bool = False) -> tuple[Path, bool]:
    """Return a package's OpenVINO graph: its own if it has one, else the cached one, else a new one.

    The cache is keyed by the package's digest and the versions of Keras and OpenVINO. A graph is added to it whole or
    not at all, however many processes derive it at the same time, together with the SHA-256 of its files. These are
    compared each time the graph is used, as golden images do not exercise every weight; a graph that differs is derived
    again.

    Parameters
    ----------
    package : ModelPackage
        The model.
    cache : Path
        Folder of derived graphs; made if missing.
    again : bool
        Derive the graph from the weights even if the package or the cache has one, and replace the cached one.

    Returns
    -------
    graph : Path
        The ``.xml``.
    fresh : bool
        Whether this call derived it.

    Raises
    ------
    PackageError
        If the network cannot be exported.
    StorageOutage
        If the cache cannot be read or written, or its disk is full.
    """
    if holds_graph(package) and not again:
        # The card pins its digests, as it does the weights'; `models verify` compares the two.
        return package.path / GRAPH_FILE, False
    kept = cache / f"{package.digest[:32]}-keras{version('keras')}-openvino{version('openvino')}"
    try:
        if not again and _is_intact(kept):
            return kept / GRAPH_FILE, False
        cache.mkdir(parents=True, exist_ok=True)
        staging, lock = _new_staging_folder(cache)
    except OSError as error:
        raise _cache_outage(cache, error) from error
    try:
        # A folder within the staging folder, as mkdtemp makes that one for this user only.
        derived = staging / "derived"
        derived.mkdir()
        derived.chmod(0o755)
        _export(package, derived / GRAPH_FILE)
        (derived / DIGESTS_FILE).write_bytes(_digests(derived))
        _put_in_place(derived, kept, staging / "replaced", again=again)
    except OSError as error:
        raise _cache_outage(cache, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)
    return kept / GRAPH_FILE, True


def holds_graph(package: ModelPackage) -> bool:
    """Say whether a package holds a graph of its own.

    Raises
    ------
    PackageError
        If it pins one of a graph's two files and not the other.
    """
    pinned = {GRAPH_FILE, GRAPH_WEIGHTS_FILE} & package.card.files.keys()
    if len(pinned) == 1:
        raise PackageError(
            f"{package.path / 'card.json'} pins {pinned.pop()} alone: a graph is {GRAPH_FILE} and {GRAPH_WEIGHTS_FILE}"
        )
    return bool(pinned)


def check_graph(package: ModelPackage) -> None:
    """Compare a package's own graph with one derived from its weights, on images unlike the golden ones.

    Raises
    ------
    PackageError
        If their outputs differ by more than the golden tolerance.
    """
    size, tolerance = package.card.input_size, package.golden().tolerance
    noise = np.random.default_rng(0).integers(0, 256, (6, size, size), np.uint8)
    images = np.concatenate([np.zeros_like(noise[:1]), np.full_like(noise[:1], 255), noise, noise[:2] // 4])
    with tempfile.TemporaryDirectory() as folder:
        derived, _ = derive_graph(package, Path(folder), again=True)
        found, expected = (
            OpenVINOEngine(read_graph(graph, package.weights_path)).infer(images)
            for graph in (package.path / GRAPH_FILE, derived)
        )
    try:
        found.check_agrees(expected, tolerance)
    except PackageError as error:
        raise PackageError(f"{package.path}: {GRAPH_FILE} does not agree with the weights: {error}") from error


def _new_staging_folder(cache: Path) -> tuple[Path, int]:
    """Make a folder to derive a graph in, and remove those of processes that were killed.

    Returns
    -------
    tuple of (Path, int)
        The folder, and a descriptor: as long as it is open, the folder is locked, also for other processes.
    """
    with ExitStack() as stack:
        # While this is locked, no folder is made that is not locked yet.
        locked = _open_folder(cache)
        stack.callback(os.close, locked)
        fcntl.flock(locked, fcntl.LOCK_EX)
        for left in cache.glob(f"{STAGING_PREFIX}*"):
            with suppress(OSError):
                descriptor = _open_folder(left)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=cache))
        lock = _open_folder(staging)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return staging, lock


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _put_in_place(derived: Path, kept: Path, replaced: Path, *, again: bool) -> None:
    if again or not _is_intact(kept):
        # Another process may be reading it, so it is moved away first and deleted with the staging folder.
        with suppress(FileNotFoundError):
            kept.rename(replaced)
    try:
        derived.rename(kept)
    except OSError:
        # Another process was faster: it derived the same graph, from the same weights.
        if not _is_intact(kept):
            raise


def _is_intact(kept: Path) -> bool:
    try:
        return (kept / DIGESTS_FILE).read_bytes() == _digests(kept)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _digests(folder: Path) -> bytes:
    """Return the digests of a graph's two files, in the format of ``sha256sum``."""
    return "".join(f"{file_sha256(folder / name)}  {name}\n" for name in (GRAPH_FILE, GRAPH_WEIGHTS_FILE)).encode()


def _cache_outage(cache: Path, error: OSError) -> StorageOutage:
    return StorageOutage(f"the graph cache {cache} cannot be used: {error.strerror or error}")


def _export(package: ModelPackage, out: Path) -> None:
    """Run this module as a process that writes a package's graph."""
    environment = {**os.environ, "KERAS_BACKEND": "openvino", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "xray.network.openvino_graph", str(package.path.resolve()), str(out.resolve())],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not out.is_file():
        _check_free_space(package, out.parent)
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise PackageError(f"{package.path}: no OpenVINO graph could be derived: {reason[0]}")


def _check_free_space(package: ModelPackage, folder: Path) -> None:
    """Raise the operating system's error if a file as large as a graph does not fit: OpenVINO's names no cause."""
    # The graph is float32, the package float16; the rest is for the XML.
    size = 3 * package.weights_path.stat().st_size
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)


def read_graph(graph: Path, weights: Path) -> ov.Model:
    """Read a graph and put a package's weights into it, as float32.

    Parameters
    ----------
    graph : Path
        From :func:`derive_graph`. It has an input named ``weight_<index>`` in the place of each weight, so that a
        package holds each weight once.
    weights : Path
        The package's weights file.

    Returns
    -------
    openvino.Model
        ``uint8 (N, size, size)`` in; ``logits (N,)``, ``cams (N, h, w)`` and, if the network has them,
        ``distances (N,)`` out, N free.

    Raises
    ------
    PackageError
        If the graph cannot be read, or the weights do not fit it.
    """
    try:
        model = ov.Core().read_model(graph)
    except RuntimeError as error:
        raise PackageError(f"{graph}: OpenVINO cannot read it: {str(error).splitlines()[0]}") from error
    matches = [
        (re.fullmatch(WEIGHT_PREFIX + "([0-9]{1,6})", parameter.get_friendly_name()), parameter)
        for parameter in model.get_parameters()
    ]
    places = {int(match[1]): parameter for match, parameter in matches if match is not None}
    if sorted(places) != list(range(len(places))) or len(model.get_parameters()) != len(places) + 1:
        raise PackageError(f"{graph}: its inputs are not one for the images and one for each weight")
    if not places:
        # Packages of bonescreen's earlier versions hold a graph with its own copy of the weights.
        return model
    shapes = [tuple(places[index].get_output_shape(0)) for index in range(len(places))]
    for index, values in enumerate(read_weights(weights, shapes)):
        places[index].output(0).replace(opset.constant(values).output(0))
        model.remove_parameter(places[index])
    model.validate_nodes_and_infer_types()
    return model


def read_network(package: ModelPackage, graph: Path, precision: Precision) -> ov.Model:
    """Read a package's graph, its weights, and for INT8 its quantization; raises as :func:`read_graph` does."""
    model = read_graph(graph, package.weights_path)
    if precision is Precision.INT8:
        quantize_graph(model, read_quantization(package.path / INT8_FILE))
    return model


def write_graph(package_path: Path, out: Path) -> None:
    """Write the graph of a package's network; Keras must run on its OpenVINO backend in this process."""
    package = load_package(package_path)
    golden = package.golden()
    try:
        # OpenVINO computes channels first, and would transpose each feature map twice.
        _write_graph_in(package.card, out, "channels_first")
        found = OpenVINOEngine(read_graph(out, package.weights_path)).infer(golden.images)
        found.check_agrees(golden.inference, golden.tolerance)
    except (PackageError, RuntimeError):
        # Some backbones have layers that know one layout only, or that depend on it without saying so.
        _write_graph_in(package.card, out, "channels_last")


def _write_graph_in(card: Card, out: Path, data_format: "DataFormat") -> None:
    from xray.network.builder import ATTENTION_KERNEL, build_from_card

    try:
        network = build_from_card(card, data_format=data_format)
    except UsageError as error:
        raise PackageError(f"card.json: {error}") from error
    # Random values tell in the exported graph which constant is which weight.
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(tuple(variable.shape), np.float32) for variable in network.weights]
    for variable, value in zip(network.weights, values, strict=True):
        variable.assign(value)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        exported = Path(folder) / GRAPH_FILE
        network.export(str(exported), format="openvino", verbose=False)
        model = ov.Core().read_model(exported)
        _remove_null_conversions(model)
        _leave_out_weights(model, values)
        attention = [index for index, variable in enumerate(network.weights) if variable.name == ATTENTION_KERNEL]
        _keep_head_in_float32(model, attention[0] if attention else None)
        ov.serialize(model, out, out.with_suffix(".bin"))


def _remove_null_conversions(model: ov.Model) -> None:
    """Remove the conversions of float32 to float32 that Keras writes after each operation."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Convert" and node.get_input_element_type(0) == node.get_output_element_type(0):
            node.output(0).replace(node.input(0).get_source_output())


def _leave_out_weights(model: ov.Model, values: Sequence[NDArray[np.float32]]) -> None:
    """Replace the constant that holds each of these values by an input named after the weight."""
    indices = {(value.shape, value.tobytes()): index for index, value in enumerate(values)}
    places: dict[int, ov.Node] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        found = node.get_data()
        index = indices.get((found.shape, found.tobytes()))
        if index is not None:
            if index not in places:
                places[index] = opset.parameter(list(found.shape), np.float32)
                places[index].set_friendly_name(f"{WEIGHT_PREFIX}{index}")
            node.output(0).replace(places[index].output(0))
    if len(places) < len(values):
        raise PackageError(f"{len(values) - len(places)} of the network's {len(values)} weights are not in its graph")
    model.add_parameters([places[index] for index in sorted(places)])


def _keep_head_in_float32(model: ov.Model, attention_kernel: int | None) -> None:
    """Mark the head, so that logits and CAMs are float32 in a network of lower precision.

    It is what follows each pooling of the last feature map, and the weight by which the head attends to a finer one.
    """
    pooling = next(node for node in reversed(model.get_ordered_ops()) if node.get_type_name() == "ReduceMean")
    users = (target.get_node() for target in pooling.input_value(0).get_target_inputs())
    waiting = [node for node in users if node.get_type_name() == "ReduceMean"]
    if attention_kernel is not None:
        name = f"{WEIGHT_PREFIX}{attention_kernel}"
        kernel = next(each for each in model.get_parameters() if each.get_friendly_name() == name)
        waiting.append(kernel)
    marked = set()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in marked and node.get_type_name() not in ("Result", "Parameter"):
            marked.add(node.get_friendly_name())
            node.get_rt_info()[FLOAT32_MARK] = True
        elif node.get_type_name() != "Parameter":
            continue
        waiting.extend(target.get_node() for output in node.outputs() for target in output.get_target_inputs())


if __name__ == "__main__":
    try:
        write_graph(Path(sys.argv[1]), Path(sys.argv[2]))
    except BonescreenError as error:
        sys.exit(str(error))
    # Threads of OpenVINO that still run when the interpreter shuts down can abort the process.
    os._exit(0)
