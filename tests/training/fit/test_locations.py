"""Training on where the finding is: targets that move with the images, their loss, and an attention trained on it."""

import csv
import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.training.conftest import SIZE
from tests.training.recipes import SMALL, small_config
from training.data.fracatlas import BODY_PARTS
from training.data.images import load_images
from training.data.read_dataset import read_dataset
from training.fit.inputs import TrainingInputs
from training.fit.learner import Learner
from training.fit.location_loss import LocationLoss
from training.fit.optimizer import make_optimizer
from training.progress import Progress
from training.recipes import Augmentation, Recipe, Stage
from training.train import train
from xray.errors import UsageError
from xray.images.preprocessing import Preprocessing
from xray.network.builder import load_network
from xray.network.card import FeaturePyramid

# Keras 3.15 reads tensors through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

# The finer map has 8 x 8 cells of 8 pixels, the backbone's last one 2 x 2.
LOCATED: Recipe = dataclasses.replace(
    SMALL,
    name="located",
    geometry="pad",
    pyramid=FeaturePyramid("conv_pw_5_relu", 16),
    clip_norm=1.0,
    location_weight=1.0,
    label_smoothing=0.0,
    class_weights=False,
    # The random backbone's features are small, so the new layers have far to go.
    stages=(Stage(trainable_layers=50, epochs=10, learning_rate=1e-5, new_layers_factor=3000),),
    augmentation=Augmentation(flip=True, rotation=10, scale=0.1, shift=0.1, gain=0.1),
    patience=0,
    average=2,
)


@pytest.fixture
def spots(tmp_path: Path) -> Path:
    """Write 60 images in 12 groups, a third with an annotated bright spot in one of sixteen places."""
    folder = tmp_path / "spots"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    annotations = []
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "fractured", *BODY_PARTS, "group"))
        for index in range(60):
            name, fractured = f"IMG{index:04d}.png", index % 3 == 0
            drawn = rng.integers(0, 60, (SIZE, SIZE), np.uint8)
            if fractured:
                top, left = 16 * rng.integers(0, 4, 2)
                drawn[top : top + 16, left : left + 16] += 190
                annotations.append({"image": name, "box": [int(left), int(top), 16, 16], "polygons": []})
            Image.fromarray(drawn).save(folder / "images" / name)
            writer.writerow([name, int(fractured), 1, 0, 0, 0, index // 5])
    (folder / "fractures.json").write_text(json.dumps(annotations))
    return folder


def training_inputs(recipe: Recipe, data: Path, weights: Path, cache: Path) -> TrainingInputs:
    """Return the inputs of a recipe for a data set."""
    preprocessing = Preprocessing(recipe.input_size, recipe.geometry)
    dataset, images, _ = load_images(read_dataset(data), preprocessing, cache, Progress())
    return TrainingInputs(dataset, images, Learner(recipe, weights), cache, Progress())


def brightest_cells(images: NDArray[np.float32], cells: int) -> NDArray[np.float64]:
    """Return the mean of each cell relative to the image's brightest, ``(N, cells, cells)``."""
    side = images.shape[1] // cells
    means = images.reshape(-1, cells, side, cells, side).mean(axis=(2, 4))
    scaled: NDArray[np.float64] = means / means.max(axis=(1, 2), keepdims=True)
    return scaled


@pytest.mark.parametrize("views", [0, 3])
def test_targets_move_with_the_images_in_every_epoch(
    views: int, spots: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    # All layers of MobileNet, so that its inputs are the images.
    stage = dataclasses.replace(LOCATED.stages[0], trainable_layers=86)
    recipe = dataclasses.replace(LOCATED, views=views, stages=(stage,))
    inputs = training_inputs(recipe, spots, backbone_weights, tmp_path)
    positive = np.flatnonzero(inputs.labels)
    for epoch in range(3):
        targets = inputs.targets(positive, 0, epoch)
        assert targets.max(axis=(1, 2)).tolist() == [1.0] * len(positive)
        images = np.asarray(inputs.inputs(positive, 0, epoch), np.float32)
        brightest = brightest_cells(images[..., 0] + 1 if views else images, 8)
        hits = [
            target[np.unravel_index(np.argmax(each), each.shape)]
            for each, target in zip(brightest, targets, strict=True)
        ]
        # A spot that is moved out of the image leaves noise, whose brightest cell may be anywhere.
        assert np.mean(np.array(hits) > 0.9) > 0.9
    assert not np.array_equal(inputs.targets(positive, 0, 0), inputs.targets(positive, 0, 1))
    assert not inputs.targets(np.flatnonzero(inputs.labels == 0), 0, 0).any()


def test_images_of_which_it_is_unknown_where_they_have_the_finding_do_not_count_in_the_loss_of_locations(
    spots: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    entries = json.loads((spots / "fractures.json").read_text())
    (spots / "fractures.json").write_text(json.dumps(entries[1:]))
    inputs = training_inputs(LOCATED, spots, backbone_weights, tmp_path)
    located = dict(zip(inputs.dataset.images.tolist(), inputs.located.tolist(), strict=True))
    assert [image for image, known in located.items() if not known] == [f"images/{entries[0]['image']}"]
    epoch = inputs.epoch(np.arange(len(inputs.labels)), 0, 0)
    _, (labels, targets), (label_weights, _) = epoch[0]
    assert labels.shape == label_weights.shape == (LOCATED.batch_size, 1)
    assert targets.shape == (LOCATED.batch_size, 8, 8)
    rows = [
        (bool(label), bool(target.any()), float(weight))
        for _, (labels, targets), (_, weights) in (epoch[step] for step in range(len(epoch)))
        for (label,), target, weight in zip(labels, targets, weights, strict=True)
    ]
    assert set(rows) == {(True, True, 1.0), (True, False, 0.0), (False, False, 1.0)}


def test_the_loss_of_locations_is_the_focal_loss_per_positive_cell() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (5, 4, 4))
    targets = np.where(rng.random((5, 4, 4)) < 0.2, rng.random((5, 4, 4)), 0)
    p = 1 / (1 + np.exp(-logits))
    entropy = -targets * np.log(p) - (1 - targets) * np.log(1 - p)
    expected = (np.where(targets > 0, 0.75, 0.25) * (targets - p) ** 2 * entropy).sum() / max(1, targets.sum())
    assert float(LocationLoss()(targets, logits)) == pytest.approx(expected, rel=1e-5)
    assert float(LocationLoss()(np.zeros((2, 4, 4)), np.full((2, 4, 4), -200.0))) == 0


@pytest.mark.parametrize("backbone", ["MobileNet", "EfficientNetLite2"])
def test_the_finer_map_folds_into_the_inference_network(backbone: str) -> None:
    layer = {"MobileNet": "conv_pw_11_relu", "EfficientNetLite2": "block14_add"}[backbone]
    stage = Stage(trainable_layers=60, epochs=1, learning_rate=1e-3)
    recipe = dataclasses.replace(LOCATED, backbone=backbone, pyramid=FeaturePyramid(layer, 16), stages=(stage,))
    learner = Learner(recipe, None)
    rng = np.random.default_rng(0)
    for variable in learner.trainable_variables()[-8:]:
        variable.assign(rng.normal(0.2, 0.5, variable.shape))
    images = rng.integers(0, 256, (3, SIZE, SIZE), np.uint8)
    features = learner.frozen_model()(images)
    logits, cells = (np.asarray(output) for output in learner.classifier(stage)(features))
    assert cells.shape == (3, *learner.map_shape) == (3, 4, 4)
    for whole, part in zip(learner.image_classifier(stage)(images), (logits, cells), strict=True):
        np.testing.assert_allclose(whole, part, rtol=1e-4, atol=1e-5)
    learner.update_inference_model()
    inferred, cams, _ = (np.asarray(output) for output in learner.inference_model(images))
    np.testing.assert_allclose(inferred, logits[:, 0], rtol=0.02, atol=0.02 * np.abs(logits).max())
    np.testing.assert_allclose(np.asarray(learner.inference_from_features()(features)[1]), cams, rtol=1e-4, atol=1e-4)
    changed = [variable.numpy() for variable in learner.trainable_variables()]
    learner.reset()
    assert not all(
        np.array_equal(one, other.numpy()) for one, other in zip(changed, learner.trainable_variables(), strict=True)
    )


def test_a_network_that_was_trained_on_locations_attends_to_them_in_images_that_it_has_not_seen(
    spots: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    package, evaluation = train(small_config(spots, backbone_weights, tmp_path / "out", LOCATED))
    assert evaluation is not None
    assert package.card.pyramid == LOCATED.pyramid
    network = load_network(package)
    head = network.get_layer("head")
    rng = np.random.default_rng(1)
    places = rng.integers(0, 4, (16, 2))
    images = rng.integers(0, 60, (16, SIZE, SIZE), np.uint8)
    for image, (row, column) in zip(images, places, strict=True):
        image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 190
    _, finer_map = keras.Model(network.input, head.input)(images, training=False)
    cells = (np.asarray(finer_map) @ head.attention_kernel.numpy())[..., 0]
    found = np.array([np.unravel_index(np.argmax(each), each.shape) for each in cells])
    # A spot has two cells on each side.
    assert ((found // 2) == places).all(axis=1).mean() > 0.7


def test_new_layers_learn_faster_by_their_factor(backbone_weights: Path) -> None:
    changes = {}
    for factor in (1.0, 100.0):
        stage = Stage(trainable_layers=12, epochs=1, learning_rate=1e-4, new_layers_factor=factor)
        late = FeaturePyramid("conv_pw_11_relu", 16)
        recipe = dataclasses.replace(LOCATED, pyramid=late, stages=(stage,), cosine=False, dropout=0.0)
        learner = Learner(recipe, backbone_weights)
        classifier = learner.classifier(stage)
        before = [np.array(variable.numpy()) for variable in learner.trainable_variables()]
        classifier.compile(make_optimizer(learner, stage, 3), loss=["mse", LocationLoss()])
        images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), np.uint8)
        features = learner.frozen_model()(images)
        classifier.train_on_batch(features, (np.ones((3, 1)), np.ones((3, *learner.map_shape))))
        new = set(map(id, learner.new_variables()))
        for is_new in (False, True):
            changes[factor, is_new] = max(
                float(np.abs(old - variable.numpy()).max())
                for old, variable in zip(before, learner.trainable_variables(), strict=True)
                if (id(variable) in new) == is_new
            )
    assert changes[100.0, True] == pytest.approx(100 * changes[1.0, True], rel=0.05)
    assert changes[100.0, False] == pytest.approx(changes[1.0, False], rel=0.05)


def test_locations_without_a_finer_map_are_refused() -> None:
    with pytest.raises(UsageError, match="needs a finer map"):
        dataclasses.replace(LOCATED, pyramid=None)
    for stage in (Stage(0, 1, 1e-3), Stage(12, 1, 1e-3, head=False)):
        with pytest.raises(UsageError, match="must train the head and layers"):
            dataclasses.replace(LOCATED, stages=(stage, *LOCATED.stages))


def test_a_finer_map_from_below_the_trainable_layers_moves_the_split_below_it() -> None:
    recipe = dataclasses.replace(
        LOCATED, pyramid=FeaturePyramid("conv_pw_11_relu", 16), stages=(Stage(3, epochs=1, learning_rate=1e-3),)
    )
    learner = Learner(recipe, None)
    trainable = learner.classifier(recipe.stages[0]).trainable_variables
    kernels = [variable for variable in trainable if variable.shape[-1] == 1024]
    assert learner.map_shape == (4, 4)
    assert isinstance(learner.frozen_model(), keras.Model)
    assert len(kernels) == 1
