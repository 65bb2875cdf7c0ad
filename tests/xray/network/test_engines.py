"""Engines: each gives the same outputs, and a network that is not the package's is refused."""

import dataclasses
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.archives import as_plain_user, folder_for_others
from tests.awaiting import await_that
from tests.tiny import some_images, stored_weights, write_tiny_package
from xray.errors import PackageError, StorageOutage, UsageError
from xray.network.open_engine import open_engine, require_engine
from xray.network.openvino_graph import check_graph, derive_graph
from xray.network.package import ModelPackage, load_package, write_package
from xray.vocabulary import Precision

ROOT = Path(__file__).parents[3]

# Runs in every child Python too: there is no TensorFlow, and whatever would leave this machine is written down.
NO_TENSORFLOW_AND_A_WATCH_ON_THE_NETWORK = """
import os, sys
sys.modules["tensorflow"] = None
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{event} {arguments!r}\\n")
sys.addaudithook(watch)
"""


def run_as_base_install(code: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_TENSORFLOW_AND_A_WATCH_ON_THE_NETWORK)
    home = tmp_path / "home"
    home.mkdir()
    paths = [str(tmp_path), str(ROOT)]
    unwanted = ("CI", "KERAS_BACKEND", "KERAS_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    environment |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "HOME": str(home),
        "NETWORK_LOG": str(tmp_path / "network.log"),
    }
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)


def test_screening_needs_no_tensorflow_and_nothing_phones_home(tiny_package: ModelPackage, tmp_path: Path) -> None:
    run_as_base_install(
        f"""
from pathlib import Path
import sys, threading
from xray.network.open_engine import open_engine
from xray.network.package import load_package
package = load_package(Path({str(tiny_package.path)!r}))
engine = open_engine(package, "auto", Path("cache"))
assert engine.name == "openvino"
engine.infer(package.golden().images)
import openvino.tools.ovc
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(5)
assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)
""",
        tmp_path,
    )
    assert not (tmp_path / "network.log").exists()
    assert not (tmp_path / "home" / "intel").exists()


def test_the_watch_on_the_network_sees_a_connection(tmp_path: Path) -> None:
    run_as_base_install("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", tmp_path)
    assert "socket.connect" in (tmp_path / "network.log").read_text()


@pytest.mark.parametrize("count", [0, 1, 7, 33])
def test_an_engine_takes_any_number_of_images_and_gives_outputs_in_their_order(
    tiny_package: ModelPackage, graph_cache: Path, count: int
) -> None:
    engine = open_engine(tiny_package, "openvino", graph_cache)
    images = some_images(33)
    everything = engine.infer(images)
    found = engine.infer(images[:count])
    assert found.logits.shape == (count,)
    assert found.logits.dtype == found.cams.dtype == np.float32
    np.testing.assert_allclose(found.logits, everything.logits[:count], atol=1e-6)
    np.testing.assert_allclose(found.cams, everything.cams[:count], atol=1e-6)


def test_an_engine_limited_to_one_thread_gives_the_same_outputs(tiny_package: ModelPackage, graph_cache: Path) -> None:
    images = tiny_package.golden().images
    one = open_engine(tiny_package, "openvino", graph_cache, threads=1).infer(images)
    np.testing.assert_allclose(one.logits, tiny_package.golden().logits, atol=1e-5)


def test_engines_agree_on_the_tiny_package(tiny_package: ModelPackage, graph_cache: Path) -> None:
    images = some_images(21)
    one = open_engine(tiny_package, "openvino", graph_cache).infer(images)
    other = open_engine(tiny_package, "keras", graph_cache).infer(images)
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
    np.testing.assert_allclose(one.cams, other.cams, atol=1e-5)


def test_engines_agree_on_the_shipped_package_to_a_thousandth_in_probability(
    shipped_package: ModelPackage, graph_cache: Path
) -> None:
    images = np.concatenate([shipped_package.golden().images, some_images(9, shipped_package.card.input_size)])
    one = open_engine(shipped_package, "openvino", graph_cache).infer(images)
    other = open_engine(shipped_package, "keras", graph_cache).infer(images)
    probability = shipped_package.card.probability
    np.testing.assert_allclose(probability(one.logits), probability(other.logits), atol=1e-3)
    assert np.abs(one.cams - other.cams).max() < 1e-3 * np.abs(other.cams).max()


def test_two_implementations_of_bfloat16_agree_on_the_golden_outputs_of_the_shipped_package(
    shipped_package: ModelPackage, graph_cache: Path
) -> None:
    golden = shipped_package.golden(Precision.BF16)
    # Opened by its check of the golden outputs, which Intel's instructions wrote.
    found = open_engine(shipped_package, "keras", graph_cache, Precision.BF16).infer(golden.images)
    assert not np.array_equal(found.logits, golden.logits)
    for wrong in (golden.cams.transpose(0, 2, 1), golden.cams[:, ::-1], golden.cams[::-1]):
        mistaken = dataclasses.replace(golden.inference, cams=np.ascontiguousarray(wrong))
        with pytest.raises(PackageError, match="cams differ"):
            mistaken.check_agrees(golden.inference, golden.tolerance, rounded=True)


def test_a_graph_is_derived_once_and_then_taken_from_the_cache(tiny_package: ModelPackage, tmp_path: Path) -> None:
    graph, fresh = derive_graph(tiny_package, tmp_path / "cache")
    written = graph.stat().st_mtime_ns
    again, fresh_again = derive_graph(tiny_package, tmp_path / "cache")
    assert (fresh, fresh_again) == (True, False)
    assert again.stat().st_mtime_ns == written
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [graph.parent.name]


def test_what_killed_derivations_left_is_removed_by_the_next_one_and_what_a_living_one_makes_is_not(
    tiny_package: ModelPackage, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    code = (
        "import sys; from pathlib import Path; from xray.network.openvino_graph import derive_graph; "
        "from xray.network.package import load_package; derive_graph(load_package(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(tiny_package.path), str(cache)]
    folders: list[set[Path]] = []
    with subprocess.Popen(command, cwd=ROOT) as killed, subprocess.Popen(command, cwd=ROOT) as living:
        await_that(lambda: len(list(cache.glob(".deriving-*"))) == 2, 60, "two processes derive")
        for process in (killed, living):
            process.send_signal(signal.SIGSTOP)
        folders.append(set(cache.glob(".deriving-*")))
        killed.kill()
        killed.wait()
        derive_graph(tiny_package, cache)
        folders.append(set(cache.glob(".deriving-*")))
        living.send_signal(signal.SIGCONT)
        assert living.wait() == 0
    assert [len(found) for found in folders] == [2, 1]
    assert list(cache.glob(".deriving-*")) == []


@pytest.fixture
def own_cache(tiny_package: ModelPackage, graph_cache: Path, tmp_path: Path) -> Path:
    """A cache of this test's own that has the tiny package's graph."""
    graph, _ = derive_graph(tiny_package, graph_cache)
    shutil.copytree(graph.parent, tmp_path / "own-cache" / graph.parent.name)
    return tmp_path / "own-cache"


def test_a_truncated_graph_in_the_cache_is_derived_again(tiny_package: ModelPackage, own_cache: Path) -> None:
    graph, _ = derive_graph(tiny_package, own_cache)
    graph.write_bytes(graph.read_bytes()[:1000])
    engine = open_engine(tiny_package, "openvino", own_cache)
    np.testing.assert_allclose(
        engine.infer(tiny_package.golden().images).logits, tiny_package.golden().logits, atol=1e-5
    )


def test_a_graph_of_other_weights_in_the_cache_is_noticed_and_derived_again(
    tiny_package: ModelPackage, own_cache: Path, tmp_path: Path
) -> None:
    other = write_tiny_package(tmp_path / "other", seed=1)
    graph, _ = derive_graph(tiny_package, own_cache)
    wrong, _ = derive_graph(other, own_cache)
    wrong_bytes = wrong.with_suffix(".bin").read_bytes()
    right_digest, wrong_digest = sha256(graph.with_suffix(".bin")), hashlib.sha256(wrong_bytes).hexdigest()
    graph.with_suffix(".bin").write_bytes(wrong_bytes)
    digests = graph.parent / "SHA256SUMS"
    digests.write_text(digests.read_text().replace(right_digest, wrong_digest))
    assert derive_graph(tiny_package, own_cache) == (graph, False)
    open_engine(tiny_package, "openvino", own_cache)
    assert sha256(graph.with_suffix(".bin")) == right_digest


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["network.xml", "network.bin"])
def test_a_cached_graph_off_by_one_bit_that_no_golden_output_shows_is_derived_again(
    tiny_package: ModelPackage, own_cache: Path, name: str
) -> None:
    graph, _ = derive_graph(tiny_package, own_cache)
    file, whole = graph.with_name(name), graph.with_name(name).read_bytes()
    # the lowest bit of a weight's mantissa, or of a blank between two elements
    altered = bytearray(whole)
    altered[len(whole) // 2 // 4 * 4 if name == "network.bin" else whole.index(b"\n")] ^= 1
    file.write_bytes(altered)
    again, fresh = derive_graph(tiny_package, own_cache)
    assert (again, fresh) == (graph, True)
    assert file.read_bytes() == whole
    assert [entry.name for entry in own_cache.iterdir()] == [graph.parent.name]


def test_a_cached_graph_without_digests_is_derived_again(tiny_package: ModelPackage, own_cache: Path) -> None:
    graph, _ = derive_graph(tiny_package, own_cache)
    (graph.parent / "SHA256SUMS").unlink()
    assert derive_graph(tiny_package, own_cache) == (graph, True)
    assert derive_graph(tiny_package, own_cache) == (graph, False)


def with_graph(package: ModelPackage, tmp_path: Path, cache: Path) -> ModelPackage:
    """Write a package again with its graph, which is derived unless the cache has it."""
    return write_package(
        tmp_path / "with_graph",
        package.card,
        weights=stored_weights(package),
        golden=package.golden(),
        readme="# Tiny\n",
        extra=graph_files(package, cache),
    )


def graph_files(package: ModelPackage, cache: Path) -> dict[str, bytes]:
    graph, _ = derive_graph(package, cache)
    return {name: graph.with_name(name).read_bytes() for name in ("network.xml", "network.bin")}


def test_a_packages_own_graph_is_used_and_agrees_with_its_weights(
    tiny_package: ModelPackage, own_cache: Path, tmp_path: Path
) -> None:
    package = with_graph(tiny_package, tmp_path, own_cache)
    open_engine(package, "openvino", tmp_path / "unused")
    assert not (tmp_path / "unused").exists()
    check_graph(package)


def test_a_graph_of_another_network_fails_its_check(
    tiny_package: ModelPackage, own_cache: Path, tmp_path: Path
) -> None:
    graph = graph_files(tiny_package, own_cache)
    # MobileNet's activations end at 6, which its golden images do not reach.
    altered = graph["network.xml"].replace(b'max="6"', b'max="3"')
    assert altered != graph["network.xml"]
    package = write_package(
        tmp_path / "altered",
        tiny_package.card,
        weights=stored_weights(tiny_package),
        golden=tiny_package.golden(),
        readme="# Tiny\n",
        extra={**graph, "network.xml": altered},
    )
    with pytest.raises(PackageError, match=r"network\.xml does not agree with the weights: the \w+ differ by"):
        check_graph(package)


def test_half_a_graph_is_refused(tiny_package: ModelPackage, own_cache: Path, tmp_path: Path) -> None:
    graph = graph_files(tiny_package, own_cache)
    half = write_package(
        tmp_path / "half",
        tiny_package.card,
        weights=stored_weights(tiny_package),
        golden=tiny_package.golden(),
        readme="# Half\n",
        extra={"network.xml": graph["network.xml"]},
    )
    with pytest.raises(PackageError, match=r"pins network\.xml alone"):
        open_engine(half, "openvino", tmp_path / "unused")


def test_others_may_read_a_cached_graph(tiny_package: ModelPackage, graph_cache: Path) -> None:
    graph, _ = derive_graph(tiny_package, graph_cache)
    assert graph.parent.stat().st_mode & 0o777 == 0o755


def rewritten(package: ModelPackage, path: Path, **changes: object) -> ModelPackage:
    """Write a package like another but for its golden outputs, properly pinned."""
    with h5py.File(package.weights_path) as file:
        weights = [file[str(index)][...] for index in range(len(file))]
    golden = dataclasses.replace(package.golden(), **changes)  # type: ignore[arg-type]
    return write_package(path, package.card, weights=weights, golden=golden, readme="# Changed\n")


@pytest.mark.parametrize("name", ["openvino", "keras"])
@pytest.mark.parametrize("what", ["logits", "cams"])
def test_outputs_that_differ_from_the_golden_ones_are_refused_by_name(
    tiny_package: ModelPackage, tmp_path: Path, name: str, what: str
) -> None:
    golden = tiny_package.golden()
    changed = rewritten(tiny_package, tmp_path / "changed", **{what: getattr(golden, what) + np.float32(0.01)})
    message = rf"engine {name} does not give the golden outputs in fp32: the {what} differ by 0.01"
    with pytest.raises(PackageError, match=message):
        open_engine(changed, name, tmp_path / "cache")  # type: ignore[arg-type]


def test_golden_outputs_that_are_not_numbers_never_pass(tiny_package: ModelPackage, tmp_path: Path) -> None:
    changed = rewritten(tiny_package, tmp_path / "changed", logits=tiny_package.golden().logits * np.float32("nan"))
    with pytest.raises(PackageError, match="logits are not finite"):
        open_engine(changed, "openvino", tmp_path / "cache")


def test_weights_of_another_network_are_refused_with_the_shapes(tiny_package: ModelPackage, tmp_path: Path) -> None:
    with h5py.File(tiny_package.weights_path) as file:
        weights = [file[str(index)][...] for index in range(len(file))]
    weights[0] = weights[0][..., :-1]
    changed = write_package(
        tmp_path / "changed", tiny_package.card, weights=weights, golden=tiny_package.golden(), readme="# Changed\n"
    )
    with pytest.raises(PackageError, match=r"weights\.h5: weight 0 has shape .*, the network needs"):
        open_engine(changed, "openvino", tmp_path / "cache")


def test_a_card_with_an_unknown_backbone_is_refused_by_the_engine(tiny_package: ModelPackage, tmp_path: Path) -> None:
    card = dataclasses.replace(tiny_package.card, backbone="Nothing50")
    changed = write_package(tmp_path / "changed", card, weights=[], golden=tiny_package.golden(), readme="# Changed\n")
    with pytest.raises(PackageError, match="no backbone named 'Nothing50'"):
        open_engine(load_package(changed.path), "openvino", tmp_path / "cache")


def test_a_package_that_went_missing_is_named_and_not_the_cache(tiny_package: ModelPackage, tmp_path: Path) -> None:
    package = load_package(shutil.copytree(tiny_package.path, tmp_path / "package"))
    package.weights_path.unlink()
    with pytest.raises(PackageError, match=r"package/weights\.h5 is missing"):
        open_engine(package, "openvino", tmp_path / "graphs")
    shutil.rmtree(package.path)
    with pytest.raises(PackageError, match=r"no model package at .*/package"):
        open_engine(package, "openvino", tmp_path / "graphs")


def test_a_cache_that_cannot_be_made_is_an_outage(tiny_package: ModelPackage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageOutage, match="graph cache"):
        open_engine(tiny_package, "openvino", tmp_path / "file" / "cache")


def test_a_cache_that_cannot_be_read_is_an_outage(tiny_package: ModelPackage, own_cache: Path) -> None:
    with folder_for_others() as folder:
        cache = Path(shutil.copytree(own_cache, folder / "cache"))
        graph, _ = derive_graph(tiny_package, cache)
        graph.parent.chmod(0)
        with as_plain_user(), pytest.raises(StorageOutage, match=r"graph cache .* cannot be used: Permission denied"):
            derive_graph(tiny_package, cache)
        graph.parent.chmod(0o755)


def test_a_disk_without_space_for_a_graph_is_an_outage_and_leaves_nothing(
    tiny_package: ModelPackage, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageOutage, match=r"graph cache .* cannot be used: File too large"):
            derive_graph(tiny_package, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("backend", "library"), [("", "tensorflow"), ("tensorflow", "tensorflow"), ("jax", "jax")])
def test_a_keras_engine_without_its_library_is_refused_in_one_line(
    tiny_package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, library: str
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setitem(sys.modules, library, None)
    remedy = r"run: make install EXTRAS=tensorflow \(or: .*\)" if library == "tensorflow" else "pip install jax"
    message = rf"^the keras engine needs TensorFlow or JAX, and {library} is not installed; [^\n]*{remedy}$"
    with pytest.raises(UsageError, match=message):
        require_engine("keras")
    with pytest.raises(UsageError, match=message):
        open_engine(tiny_package, "keras", tmp_path)


def test_a_keras_backend_that_the_engine_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(UsageError, match="KERAS_BACKEND is torch"):
        require_engine("keras")


@pytest.mark.parametrize("name", ["auto", "openvino"])
def test_the_base_install_has_what_the_other_engines_need(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    require_engine(name)  # type: ignore[arg-type]


def test_asking_for_an_engine_imports_no_network_library() -> None:
    code = "import sys; from xray.network.open_engine import require_engine; require_engine('auto')\n"
    code += "try: require_engine('keras')\nexcept Exception: pass\n"
    code += "sys.exit(' '.join({'tensorflow', 'keras', 'jax', 'openvino'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
