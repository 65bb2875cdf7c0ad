"""How unlike the training images an image is: the same number in every engine, layout and card."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.tiny import some_images, stored_weights
from tests.xray.network.distance_oracle import distance_of
from training.evaluate.scope import drawn_pictures
from xray.errors import PackageError
from xray.images.decode import open_image
from xray.images.preprocessing import Preprocessing, load
from xray.network.builder import load_network
from xray.network.card import Card
from xray.network.open_engine import open_engine
from xray.network.package import ModelPackage, file_sha256, load_package, write_package
from xray.thresholds import is_unlike


def test_both_layouts_give_the_distance_of_the_pooled_features(tiny_package: ModelPackage) -> None:
    images = some_images(5)
    network = load_network(tiny_package)
    feature_map = keras.Model(network.input, network.get_layer("distance").input)(images, training=False)
    expected = [distance_of(pooled, *stored_weights(tiny_package)[-5:]) for pooled in np.mean(feature_map, axis=(1, 2))]
    assert np.ptp(expected) > 0.01
    for layout in (network, load_network(tiny_package, data_format="channels_first")):
        np.testing.assert_allclose(np.asarray(layout(images, training=False)[2]), expected, rtol=1e-4)


def test_engines_agree_on_the_distances(tiny_package: ModelPackage, tmp_path: Path) -> None:
    images = some_images(21)
    one, other = (open_engine(tiny_package, name, tmp_path).infer(images).distances for name in ("openvino", "keras"))
    assert one is not None
    assert other is not None
    assert one.dtype == other.dtype == np.float32
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("engine", ["openvino", "keras"])
def test_a_package_from_before_distances_still_works_and_gives_none(
    tiny_package: ModelPackage, tmp_path: Path, engine: str
) -> None:
    old = without_distance(tiny_package, tmp_path / "old")
    assert old.card.scope.distance is None
    images = some_images(3)
    found = open_engine(old, engine, tmp_path).infer(images)  # type: ignore[arg-type]
    assert found.distances is None
    expected = open_engine(tiny_package, "openvino", tmp_path).infer(images)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)


def test_other_distances_than_the_golden_ones_are_refused(tiny_package: ModelPackage, tmp_path: Path) -> None:
    golden = tiny_package.golden()
    assert golden.distances is not None
    copy = shutil.copytree(tiny_package.path, tmp_path / "copy")
    stored = dict(np.load(copy / "golden.npz"))
    np.savez(copy / "golden.npz", **{**stored, "distances": stored["distances"] * np.float32(1.01)})
    changed = _pinned_again(copy, "golden.npz")
    with pytest.raises(PackageError, match="does not give the golden outputs in fp32: the distances differ by"):
        open_engine(changed, "openvino", tmp_path)


def test_golden_outputs_without_the_distances_that_the_card_promises_are_refused(
    tiny_package: ModelPackage, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_package.path, tmp_path / "copy")
    stored = dict(np.load(copy / "golden.npz"))
    del stored["distances"]
    np.savez(copy / "golden.npz", **stored)
    with pytest.raises(PackageError, match=r"golden.npz is not a readable golden file: .*distances"):
        _pinned_again(copy, "golden.npz").golden()


@pytest.mark.parametrize("changes", [{"threshold": 0.0}, {"components": 0}])
def test_a_distance_that_puts_every_image_out_of_scope_is_refused(
    tiny_package: ModelPackage, changes: dict[str, float]
) -> None:
    raw = json.loads(tiny_package.card.to_json())
    raw["distance"] |= changes
    with pytest.raises(PackageError, match="the distance's components and threshold must be positive"):
        Card.from_json(json.dumps(raw))


def without_distance(package: ModelPackage, path: Path) -> ModelPackage:
    """Write a package as it was before cards had a distance."""
    golden = dataclasses.replace(package.golden(), distances=None)
    card = dataclasses.replace(package.card, distance=None)
    write_package(path, card, weights=stored_weights(package)[:-5], golden=golden, readme="# Old\n")
    raw = json.loads((path / "card.json").read_text())
    del raw["distance"]
    (path / "card.json").write_text(json.dumps({**raw, "schema": 3}))
    return load_package(path)


def _pinned_again(path: Path, name: str) -> ModelPackage:
    raw = json.loads((path / "card.json").read_text())
    raw["files"][name] = file_sha256(path / name)
    (path / "card.json").write_text(json.dumps(raw))
    return load_package(path)


def test_the_shipped_model_has_radiographs_in_scope_and_drawn_pictures_not(
    shipped_package: ModelPackage, graph_cache: Path
) -> None:
    card = shipped_package.card
    engine = open_engine(shipped_package, "openvino", graph_cache)
    preprocessing = Preprocessing.from_id(card.preprocessing)
    examples = sorted((Path(__file__).parents[3] / "examples/archive").rglob("*positive/*.jpg"))
    assert len(examples) == 8
    radiographs = np.stack([load(open_image(example.read_bytes()), preprocessing) for example in examples])
    found = engine.infer(radiographs).distances
    assert found is not None
    assert not any(is_unlike(float(distance), card.distance_threshold) for distance in found)
    for kind, pictures in drawn_pictures(card.input_size).items():
        if kind != "shapes":
            unlike = engine.infer(pictures[:4]).distances
            assert unlike is not None
            assert all(is_unlike(float(distance), card.distance_threshold) for distance in unlike), kind
