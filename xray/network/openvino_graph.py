"""The OpenVINO engine: CPUs, without TensorFlow."""

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

from xray.errors import PackageError, StorageOutage
from xray.network.openvino_engine import OpenVINOEngine
from xray.network.package import ModelPackage, file_sha256

GRAPH_FILE, WEIGHTS_FILE, DIGESTS_FILE = "network.xml", "network.bin", "SHA256SUMS"


def derive_graph(package: ModelPackage, cache: Path, *, again: bool = False) -> tuple[Path, bool]:
    """Return a package's OpenVINO graph: the one it holds, or one derived from its weights unless the cache has it.

    The cache is keyed by the package's digest and the versions of Keras and OpenVINO. A graph appears in it whole or
    not at all, whoever else derives it at the same time, with the SHA-256 of its files. Those are compared each time it
    is taken from the cache, as golden images do not exercise every weight; a graph that differs is derived again.

    Parameters
    ----------
    package : ModelPackage
        The model.
    cache : Path
        Folder of derived graphs; made if missing.
    again : bool
        Replace what the cache has.

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
        # As pinned as the weights are; `models verify` holds it to them.
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
        # Not the staging folder itself, which nobody else may enter.
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
    pinned = {GRAPH_FILE, WEIGHTS_FILE} & package.card.files.keys()
    if len(pinned) == 1:
        raise PackageError(
            f"{package.path / 'card.json'} pins {pinned.pop()} alone: a graph is {GRAPH_FILE} and {WEIGHTS_FILE}"
        )
    return bool(pinned)


def check_graph(package: ModelPackage) -> None:
    """Compare a package's own graph with one derived from its weights, on films that golden images are not like.

    Raises
    ------
    PackageError
        If they differ by more than the golden tolerance.
    """
    size, tolerance = package.card.input_size, package.golden().tolerance
    noise = np.random.default_rng(0).integers(0, 256, (6, size, size), np.uint8)
    films = np.concatenate([np.zeros_like(noise[:1]), np.full_like(noise[:1], 255), noise, noise[:2] // 4])
    with tempfile.TemporaryDirectory() as folder:
        derived, _ = derive_graph(package, Path(folder), again=True)
        found, wanted = (OpenVINOEngine(package, graph).infer(films) for graph in (package.path / GRAPH_FILE, derived))
    scale = max(1.0, float(np.abs(wanted.cams).max()))
    for what, difference in (
        ("logits", np.abs(found.logits - wanted.logits).max()),
        ("cams", np.abs(found.cams - wanted.cams).max() / scale),
    ):
        # written so that NaN fails too
        if not difference <= tolerance:
            raise PackageError(
                f"{package.path}: the {what} of {GRAPH_FILE} differ from the weights' by {difference:.2g}"
            )


def packaged_graph(package: ModelPackage, cache: Path) -> dict[str, bytes]:
    """Return a package's graph as files to put into a package: the weights as float16, which they are already.

    Parameters
    ----------
    package : ModelPackage
        The model.
    cache : Path
        Where the graph is derived, as in :func:`derive_graph`.
    """
    graph, _ = derive_graph(package, cache)
    compressed = cache / GRAPH_FILE
    ov.save_model(ov.Core().read_model(graph), compressed, compress_to_fp16=True)
    return {name: (cache / name).read_bytes() for name in (GRAPH_FILE, WEIGHTS_FILE)}


def _put_in_place(derived: Path, kept: Path, replaced: Path, *, again: bool) -> None:
    if again or not _is_intact(kept):
        # Moved, not deleted: another process may be reading it.
        with suppress(FileNotFoundError):
            kept.rename(replaced)
    try:
        derived.rename(kept)
    except OSError:
        # Another process was first: the same weights, so the same graph.
        if not _is_intact(kept):
            raise


def _is_intact(kept: Path) -> bool:
    try:
        return (kept / DIGESTS_FILE).read_bytes() == _digests(kept)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _digests(folder: Path) -> bytes:
    """Return what ``sha256sum`` writes of a graph's two files."""
    return "".join(f"{file_sha256(folder / name)}  {name}\n" for name in (GRAPH_FILE, WEIGHTS_FILE)).encode()


def _cache_outage(cache: Path, error: OSError) -> StorageOutage:
    return StorageOutage(f"the graph cache {cache} cannot be used: {error.strerror or error}")


def _export(package: ModelPackage, out: Path) -> None:
    environment = {**os.environ, "KERAS_BACKEND": "openvino", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "xray.network.export", str(package.path.resolve()), str(out.resolve())],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not out.is_file():
        _require_room(package, out.parent)
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise PackageError(f"{package.path}: no OpenVINO graph could be derived: {reason[0]}")


def _require_room(package: ModelPackage, folder: Path) -> None:
    """Raise what the disk says to a file as large as a graph: OpenVINO says "iostream error" when it is full."""
    # The graph is float32, the package float16; the rest is for the XML.
    room = 3 * package.weights_path.stat().st_size
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, room)
