"""The whole path: films and backbone weights in, a model package out that the worker's engine loads."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from bonescreen.commands.train import train as train_command
from tests.tiny import random_weight
from training.recipe import RECIPES, find_recipe
from training.train import train
from xray.engine import open_engine
from xray.errors import UsageError
from xray.package import load_package

# Keras 3.15 saves weights through an interface that NumPy 2 wants changed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

RECIPE = dataclasses.replace(
    RECIPES["fracture-densenet169"],
    name="small",
    backbone="MobileNet",
    input_size=64,
    head=(16, 8),
    dropout=0.0,
    batch_size=16,
    folds=2,
    max_epochs=4,
    learning_rate=3e-3,
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write backbone weights as Keras does."""
    path = tmp_path / "mobilenet.weights.h5"
    backbone = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3))
    rng = np.random.default_rng(0)
    backbone.set_weights([random_weight(weight.name, tuple(weight.shape), rng) for weight in backbone.weights])
    backbone.save_weights(path)
    return path


def test_a_trained_package_loads_into_the_workers_engine_and_says_how_it_was_made(
    fracatlas: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = train(RECIPE, fracatlas, weights, tmp_path / "out")
    package = load_package(tmp_path / "out" / "small-1")
    assert package.digest == made.digest
    open_engine(package, "openvino", tmp_path / "cache")
    printed = capsys.readouterr().out
    assert "learning_rate = 0.003" in printed
    assert "unreadable: truncated 1" in printed
    assert "bonescreen train small --data FRACATLAS --weights mobilenet.weights.h5 --out OUT" in package.card.command
    assert str(tmp_path) not in (package.path / "card.json").read_text()

    features = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "features").iterdir()}
    again = train(dataclasses.replace(RECIPE, version="2"), fracatlas, weights, tmp_path / "out")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "features").iterdir()} == features
    np.testing.assert_allclose(again.golden().logits, made.golden().logits, atol=1e-5)

    with pytest.raises(UsageError, match="never changed"):
        train(RECIPE, fracatlas, weights, tmp_path / "out")


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no recipe named 'cake'; one of: fracture-densenet169"):
        find_recipe("cake")


def test_missing_weights_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights file at"):
        train_command("fracture-densenet169", tmp_path, tmp_path / "nowhere.h5", tmp_path)


def test_weights_of_another_network_are_refused(fracatlas: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot build DenseNet121"):
        train(dataclasses.replace(RECIPE, backbone="DenseNet121"), fracatlas, weights, tmp_path / "out")
