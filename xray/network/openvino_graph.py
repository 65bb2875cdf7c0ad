"""A package's network as an OpenVINO graph: derived from the weights, kept in a cache, and checked against them.

``python -m xray.network.openvino_graph PACKAGE OUT`` derives one graph, in a process of its own: Keras writes it on its
OpenVINO backend, a process has one Keras backend, and a worker should not keep Keras in memory. TensorFlow is not
needed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino as ov

from xray.errors import BonescreenError, PackageError, StorageOutage
from xray.network.openvino_engine import OpenVINOEngine
from xray.network.package import ModelPackage, file_sha256, load_package

GRAPH_FILE, GRAPH_WEIGHTS_FILE, DIGESTS_FILE = "network.xml", "network.bin", "SHA256SUMS"


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
        staging = Path(tempfile.mkdtemp(prefix=".deriving-", dir=cache))
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
            OpenVINOEngine(package, graph).infer(images) for graph in (package.path / GRAPH_FILE, derived)
        )
    try:
        found.check_agrees(expected, tolerance)
    except PackageError as error:
        raise PackageError(f"{package.path}: {GRAPH_FILE} does not agree with the weights: {error}") from error


def packaged_graph(package: ModelPackage, cache: Path) -> dict[str, bytes]:
    """Return a package's graph as files to add to the package.

    The weights are stored as float16. That loses nothing, as the package's own weights are float16.

    Parameters
    ----------
    package : ModelPackage
        The model.
    cache : Path
        Folder in which the graph is derived, as in :func:`derive_graph`.

    Returns
    -------
    dict of str to bytes
        The contents of ``network.xml`` and ``network.bin``, by file name.
    """
    graph, _ = derive_graph(package, cache)
    compressed = cache / GRAPH_FILE
    ov.save_model(ov.Core().read_model(graph), compressed, compress_to_fp16=True)
    return {name: (cache / name).read_bytes() for name in (GRAPH_FILE, GRAPH_WEIGHTS_FILE)}


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


def _write_graph(package_path: Path, out: Path) -> None:
    """Write a package's network as an OpenVINO graph, float32; ``KERAS_BACKEND`` must be ``openvino``."""
    from xray.network.builder import load_network

    load_network(load_package(package_path)).export(str(out), format="openvino", verbose=False)


if __name__ == "__main__":
    try:
        _write_graph(Path(sys.argv[1]), Path(sys.argv[2]))
    except BonescreenError as error:
        sys.exit(str(error))
