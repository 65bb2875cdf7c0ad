"""Training inputs: which images and views an epoch has, and class weights."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import SIZE
from tests.training.recipes import SMALL
from training.data.dataset import Dataset, Example
from training.data.fracatlas import FRACATLAS
from training.data.images import load_images
from training.data.read_dataset import read_dataset
from training.fit.inputs import TrainingInputs, class_weights
from training.fit.learner import Learner
from training.progress import Progress
from training.recipes import Stage
from xray.images.preprocessing import Preprocessing

# Keras 3.15 reads tensors through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


def test_an_epoch_has_all_positive_images_and_the_next_negative_ones_until_each_was_used(
    fracatlas: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(SMALL, stages=(Stage(0, 1, 1e-3), Stage(6, 4, 1e-3, negatives=0.5)))
    dataset = read_dataset(fracatlas)
    dataset, images, _ = load_images(dataset, Preprocessing(SIZE, "squash"), tmp_path, Progress())
    inputs = TrainingInputs(dataset, images, Learner(recipe, backbone_weights), tmp_path, Progress())
    train = np.flatnonzero(np.arange(len(dataset)) % 4 > 0)
    positive, negative = (set(train[dataset.labels[train] == label].tolist()) for label in (True, False))
    np.testing.assert_array_equal(inputs.epoch_indices(train, 0, 0), train)
    # A stage that trains the head alone takes unaugmented images; one that trains the backbone takes the views in turn.
    np.testing.assert_array_equal(inputs.inputs(train, 0, 1), inputs.pooled[train])
    assert (inputs.inputs(train, 1, 0) != inputs.inputs(train, 1, 1)).any(axis=(1, 2, 3)).all()
    used: Counter[int] = Counter()
    for epoch in range(len(negative)):
        chosen = inputs.epoch_indices(train, 1, epoch)
        assert len(chosen) == len(positive) + round(len(positive) / 2)
        assert positive < set(chosen.tolist()) <= positive | negative
        used.update(chosen.tolist())
    assert len({used[image] for image in negative}) == 1, "some negative images are used more often than others"
    batches = inputs.epoch(train, 1, 0)
    assert len(batches) == -(-len(inputs.epoch_indices(train, 1, 0)) // recipe.batch_size)


def test_an_image_has_the_weight_of_the_other_classs_share_among_the_images_of_its_body_part() -> None:
    labels = [True] * 2 + [False] * 6 + [True] * 3 + [False] * 1 + [False] * 4
    parts = ["HAND"] * 8 + ["HIP"] * 4 + ["KNEE"] * 4
    examples = tuple(
        Example(str(i), str(i), str(i), label, part) for i, (label, part) in enumerate(zip(labels, parts, strict=True))
    )
    # One more image, held out: its label must not matter.
    held_out = Example("16", "16", "16", True, "HAND")
    dataset = Dataset(Path(), FRACATLAS, "fracture", (*examples, held_out))
    weights = class_weights(dataset, np.arange(16))
    assert weights[:16].mean() == pytest.approx(1)
    relabelled = dataclasses.replace(dataset, examples=(*examples, dataclasses.replace(held_out, label=False)))
    np.testing.assert_array_equal(class_weights(relabelled, np.arange(16))[:16], weights[:16])
    hand, hip = weights[:8], weights[8:12]
    assert hand[0] / hand[7] == pytest.approx(6 / 2)
    assert hip[0] / hip[3] == pytest.approx(1 / 3)
    assert hand[0] / hip[0] == pytest.approx((6 / 8) / (1 / 4))
    # A body part with one class is weighted as the data as a whole.
    assert weights[12] / hand[7] == pytest.approx((5 / 16) / (2 / 8))
