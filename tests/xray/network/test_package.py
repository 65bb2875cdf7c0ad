"""Model packages: what is written is read back, and anything wrong is refused with the name of the file."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.tiny import CARD
from xray.errors import PackageError, UsageError
from xray.images.preprocessing import Preprocessing
from xray.network.card import Calibration, Card, Metric, Threshold
from xray.network.package import (
    ModelPackage,
    installed_packages,
    load_package,
    read_weights,
    round_to_storage,
    write_package,
    write_weights,
)


@pytest.fixture
def copy(tiny_package: ModelPackage, tmp_path: Path) -> Path:
    """Copy the tiny package, for a test to damage."""
    return Path(shutil.copytree(tiny_package.path, tmp_path / "copy"))


def repin(path: Path, name: str) -> None:
    """Make the card agree with a changed file, so that the file's content is what is refused."""
    card = json.loads((path / "card.json").read_text())
    card["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    (path / "card.json").write_text(json.dumps(card))


def test_a_package_is_the_same_when_it_is_loaded_again(tiny_package: ModelPackage) -> None:
    again = load_package(tiny_package.path)
    assert again == tiny_package
    assert again.digest == hashlib.sha256((tiny_package.path / "card.json").read_bytes()).hexdigest()


def test_a_card_survives_json_unchanged() -> None:
    assert Card.from_json(CARD.to_json()) == CARD


def test_a_number_without_an_interval_survives_json_and_half_an_interval_is_refused() -> None:
    card = dataclasses.replace(CARD, metrics=(Metric("AUROC", "these images", 1.0, None, None),))
    assert Card.from_json(card.to_json()) == card
    raw = json.loads(card.to_json())
    for low, message in ((0.5, "one end"), ("0.5", r"metrics\[0\]\.low is str, not float")):
        raw["metrics"][0]["low"] = low
        with pytest.raises(PackageError, match=message):
            Card.from_json(json.dumps(raw))


@pytest.mark.parametrize("name", ["card.json", "weights.h5", "golden.npz", "README.md"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(PackageError, match=name):
        load_package(copy)


@pytest.mark.parametrize("name", ["weights.h5", "golden.npz", "README.md"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[: len(b) // 2] + b"\x00" + b[len(b) // 2 + 1 :] + b"\x01"]
)
def test_a_damaged_file_is_named(copy: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    (copy / name).write_bytes(damage((copy / name).read_bytes()))
    with pytest.raises(PackageError, match=f"{name} differs from its digest"):
        load_package(copy)


@pytest.mark.parametrize("content", [b"not HDF5", b""])
def test_a_weights_file_that_is_not_hdf5_is_named(copy: Path, content: bytes) -> None:
    (copy / "weights.h5").write_bytes(content)
    repin(copy, "weights.h5")
    with pytest.raises(PackageError, match=r"weights\.h5 is not a readable weights file"):
        read_weights(load_package(copy).weights_path, [(3,)])


@pytest.mark.parametrize("content", [b"not a zip", b"", b"PK\x03\x04 cut short"])
def test_a_golden_file_that_is_not_npz_is_named(copy: Path, content: bytes) -> None:
    (copy / "golden.npz").write_bytes(content)
    repin(copy, "golden.npz")
    with pytest.raises(PackageError, match=r"golden\.npz is not a readable golden file"):
        load_package(copy).golden()


def test_a_golden_file_is_never_unpickled(copy: Path) -> None:
    golden = load_package(copy).golden()
    hostile = np.array([{"a": "pickle"}], dtype=object)
    np.savez(copy / "golden.npz", images=hostile, logits=golden.logits, cams=golden.cams, tolerance=1e-3)
    repin(copy, "golden.npz")
    with pytest.raises(PackageError, match=r"golden\.npz"):
        load_package(copy).golden()


def test_golden_images_of_another_size_are_refused(copy: Path) -> None:
    golden = load_package(copy).golden()
    small = np.zeros((len(golden.images), 8, 8), np.uint8)
    np.savez(copy / "golden.npz", **{**dataclasses.asdict(golden), "images": small})
    repin(copy, "golden.npz")
    with pytest.raises(PackageError, match=r"golden\.npz: images are not uint8 \(N, 64, 64\)"):
        load_package(copy).golden()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.full(8, np.nan, np.float32)}, "logits are not finite float32"),
        ({"logits": np.zeros(8, np.float64)}, "logits are not finite float32"),
        ({"cams": np.full((8, 2, 2), np.inf, np.float32)}, "cams are not finite float32"),
        ({"distances": np.full(8, np.nan, np.float32)}, "distances are not finite float32"),
        ({"distances": np.zeros(7, np.float32)}, "distances do not fit the images"),
        ({"tolerance": np.float64("nan")}, "the tolerance is nan"),
        ({"tolerance": np.float64("inf")}, "the tolerance is inf"),
        ({"tolerance": np.float64(0)}, "the tolerance is 0"),
        ({"tolerance": np.float64(1)}, "the tolerance is 1"),
    ],
)
def test_golden_outputs_that_would_check_nothing_are_refused(copy: Path, changes: dict[str, Any], message: str) -> None:
    golden = load_package(copy).golden()
    np.savez(copy / "golden.npz", **{**dataclasses.asdict(golden), **changes})
    repin(copy, "golden.npz")
    with pytest.raises(PackageError, match=rf"golden\.npz: {message}"):
        load_package(copy).golden()


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda card: card.pop(key)


def with_value(value: object, *keys: str) -> Callable[[dict[str, Any]], object]:
    def change(card: dict[str, Any]) -> None:
        for key in keys[:-1]:
            card = card[key]
        card[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("backbone"), "card.backbone is missing"),
        (with_value(1, "surprise"), "card.surprise is unknown"),
        (with_value(5, "schema"), "schema version 5 is not known"),
        (without("schema"), "schema version None is not known"),
        (with_value("64", "input_size"), "card.input_size is str, not int"),
        (with_value(True, "input_size"), "card.input_size is bool, not int"),
        (with_value(0, "input_size"), "must be positive"),
        (with_value([8], "head"), "card.head is not a list of the right length"),
        (with_value([8, "4"], "head"), r"card.head\[1\] is str"),
        (with_value("ELBOW", "body_parts"), "card.body_parts is not a list"),
        (with_value(["TAIL"], "body_parts"), "unknown body parts: TAIL"),
        (with_value(1.5, "image_threshold", "value"), "image_threshold is not a probability"),
        (with_value(float("nan"), "study_threshold", "value"), "card.study_threshold.value is not finite"),
        (with_value(None, "calibration"), "card.calibration is not an object"),
        (with_value([], "files"), "card.files is not an object"),
        (with_value({}, "files"), "lists no digest for weights.h5"),
        (with_value("0" * 64, "files", "../elsewhere"), "names a file outside the package"),
    ],
)
def test_a_wrong_card_is_refused_with_what_is_wrong(
    copy: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    card = json.loads((copy / "card.json").read_text())
    change(card)
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(PackageError, match=rf"card\.json.*{message}"):
        load_package(copy)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"", b'"text"'])
def test_a_card_that_is_not_a_json_object_is_refused(copy: Path, content: bytes) -> None:
    (copy / "card.json").write_bytes(content)
    with pytest.raises(PackageError, match=r"card\.json"):
        load_package(copy)


def test_a_card_that_is_nested_too_deeply_is_refused(copy: Path) -> None:
    (copy / "card.json").write_text("[" * 100_000)
    with pytest.raises(PackageError, match=r"card\.json.*nested too deeply"):
        load_package(copy)


def test_an_unknown_name_is_refused_with_the_installed_ones() -> None:
    with pytest.raises(PackageError, match=r"no model package named 'nothing'; installed: .*fracture-5"):
        load_package("nothing")


def test_a_path_that_is_not_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no model package at"):
        load_package(f"{tmp_path}/nothing")


def test_a_package_is_never_overwritten(tiny_package: ModelPackage) -> None:
    with pytest.raises(UsageError, match="never changed"):
        write_package(
            tiny_package.path, tiny_package.card, weights=[], golden=tiny_package.golden(), readme="# Another\n"
        )


def test_a_package_that_cannot_be_written_leaves_nothing_behind(tiny_package: ModelPackage, tmp_path: Path) -> None:
    too_large = [np.full(3, 1e6, np.float32)]
    with pytest.raises(PackageError, match="weight 0 does not fit into float16"):
        write_package(
            tmp_path / "new", tiny_package.card, weights=too_large, golden=tiny_package.golden(), readme="# New\n"
        )
    assert not list(tmp_path.iterdir())


def test_weights_are_read_back_rounded_to_float16_and_no_further(tmp_path: Path) -> None:
    weights = [np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32), np.zeros(0, np.float32)]
    write_weights(tmp_path / "w.h5", weights)
    found = read_weights(tmp_path / "w.h5", [(5, 4), (0,)])
    np.testing.assert_array_equal(found[0], round_to_storage(weights[0]))
    assert found[0].dtype == np.float32


def test_a_weights_file_cannot_link_to_another_file(tmp_path: Path) -> None:
    write_weights(tmp_path / "secret.h5", [np.ones(3, np.float32)])
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["0"] = h5py.ExternalLink("secret.h5", "0")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("0", (3,), np.float16, external=[(str(tmp_path / "secret.h5"), 0, 6)])
    for name in ("linked.h5", "external.h5"):
        with pytest.raises(PackageError, match=f"{name}: weight 0"):
            read_weights(tmp_path / name, [(3,)])


def test_weights_of_another_number_type_or_count_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["0"] = np.ones(3, np.float64)
    with pytest.raises(PackageError, match="holds 1 weights, the network has 2"):
        read_weights(tmp_path / "w.h5", [(3,), (3,)])
    with pytest.raises(PackageError, match="weight 0 is not a plain float16 array"):
        read_weights(tmp_path / "w.h5", [(3,)])


def test_a_probability_is_platts_and_never_overflows() -> None:
    card = dataclasses.replace(CARD, calibration=Calibration(2.0, -1.0))
    probabilities = card.probability([-1e6, 0.0, 0.5, 1e6])
    np.testing.assert_allclose(probabilities, [0, 1 / (1 + np.e), 0.5, 1])
    assert probabilities.dtype == np.float64


@pytest.mark.parametrize("slope", [-0.17, 0, -0.0])
def test_a_card_whose_calibration_would_turn_the_ranking_round_is_refused_with_a_way_out(
    copy: Path, slope: float
) -> None:
    card = json.loads((copy / "card.json").read_text())
    card["calibration"]["slope"] = slope
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(
        PackageError, match=rf"card\.json: the calibration's slope is {slope:g}, .*Train the model again"
    ):
        load_package(copy)


def test_thresholds_must_be_probabilities() -> None:
    with pytest.raises(PackageError, match="study_threshold"):
        dataclasses.replace(CARD, study_threshold=Threshold(-0.1, "wrong"))


def test_the_shipped_package_is_small_and_its_card_is_complete(shipped_package: ModelPackage) -> None:
    card = shipped_package.card
    assert shipped_package.path.name == f"{card.name}-{card.version}"
    assert shipped_package.path.name in installed_packages()
    assert sum(file.stat().st_size for file in shipped_package.path.iterdir()) < 30_000_000
    assert Preprocessing.from_id(card.preprocessing).size == card.input_size
    assert any(data.licence.startswith("CC-BY-4.0") for data in card.training_data)
    assert any("not for diagnosis" in limit for limit in card.limits)
    assert any("noisy" in limit for limit in card.limits)
    readme = (shipped_package.path / "README.md").read_text()
    assert "Abedeen" in readme
    assert card.command in readme
    for metric in card.metrics:
        assert metric.low is None or metric.high is None or metric.low <= metric.value <= metric.high
        assert f"{metric.value:.3f}" in readme
