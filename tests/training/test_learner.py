"""The network that learns is the network that ships, cut in two."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.training.conftest import SIZE
from tests.training.recipes import SMALL
from training.data.dataset import Dataset, Example
from training.data.fracatlas import FRACATLAS
from training.fit.augment import augment
from training.fit.inputs import class_weights
from training.fit.learner import Learner
from training.recipes import Augmentation, Stage
from xray.errors import UsageError

# Keras 3.15 reads tensors through an interface that NumPy 2 wants changed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

# Of each family a small one; `backbone_names` has some forty.
FAMILIES = ("DenseNet121", "MobileNetV2", "ResNet50V2", "EfficientNetV2B0", "InceptionV3", "ConvNeXtTiny")
FILMS = np.random.default_rng(0).integers(0, 256, (3, 96, 96), np.uint8)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_any_backbone_is_cut_below_what_learns_and_its_head_folds_into_the_inference_network(backbone: str) -> None:
    recipe = dataclasses.replace(SMALL, backbone=backbone, input_size=96, stages=(Stage(0, 1, 1e-3), Stage(9, 1, 1e-3)))
    learner = Learner(recipe, None)
    features = learner.trunk()(FILMS)
    pooled = np.asarray(learner.pooling()(features))
    learner.standardise(pooled + np.random.default_rng(0).normal(size=pooled.shape).astype(np.float32))
    logits = np.asarray(learner.whole(Stage(9, 1, 1e-3))(FILMS))[:, 0]
    np.testing.assert_allclose(np.asarray(learner.classifier(Stage(9, 1, 1e-3))(features))[:, 0], logits, atol=1e-5)
    np.testing.assert_allclose(np.asarray(learner.classifier(Stage(0, 1, 1e-3))(pooled))[:, 0], logits, atol=1e-5)
    learner.ship()
    shipped, cams = (np.asarray(output) for output in learner.network(FILMS))
    # the head is rounded to float16
    np.testing.assert_allclose(shipped, logits, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(np.asarray(learner.explainer()(features)[1]), cams, rtol=1e-4, atol=1e-4)


def test_only_the_last_layers_learn_and_batch_normalisation_never_does() -> None:
    learner = Learner(SMALL, None)
    learner.classifier(Stage(12, 1, 1e-3))
    layers = learner.backbone.layers
    assert not any(layer.trainable for layer in layers[:-12])
    normalisations = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert normalisations
    assert not any(layer.trainable for layer in normalisations)
    assert any(layer.trainable_variables for layer in layers[-12:])


def test_a_frozen_head_drops_nothing_and_stays_as_it_is_while_released_layers_learn(
    backbone_weights: Path,
) -> None:
    learner = Learner(dataclasses.replace(SMALL, dropout=0.5), backbone_weights)
    films = FILMS[:, :SIZE, :SIZE]
    features = np.asarray(learner.trunk()(films))
    # In training, as a stage does, not as the network is asked at rest.
    learning = learner.classifier(Stage(12, 1, 1e-3))
    assert not np.array_equal(*(np.asarray(learning(features, training=True)) for _ in range(2)))
    held = learner.classifier(Stage(12, 1, 1e-3, head=False))
    np.testing.assert_array_equal(*(np.asarray(held(features, training=True)) for _ in range(2)))

    before = [variable.numpy() for variable in learner.learnt()]
    held = learner.classifier(Stage(12, 1, 1e-3, head=False))
    held.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.1), keras.losses.BinaryCrossentropy(from_logits=True))
    held.train_on_batch(features, np.array([[0.0], [1.0], [0.0]]))
    changed = [not np.array_equal(old, new.numpy()) for old, new in zip(before, learner.learnt(), strict=True)]
    # The last six are the head's three kernels and three biases.
    assert any(changed[:-6])
    assert not any(changed[-6:])

    logits = np.asarray(held(features))[:, 0]
    learner.ship()
    np.testing.assert_allclose(np.asarray(learner.network(films)[0]), logits, rtol=0.02, atol=0.02)


def test_stages_that_teach_nothing_or_a_head_that_never_learns_are_refused() -> None:
    with pytest.raises(UsageError, match="neither layers of the backbone nor the head"):
        Stage(release=0, epochs=1, learning_rate=1e-3, head=False)
    with pytest.raises(UsageError, match="-1 negative films"):
        Stage(release=0, epochs=1, learning_rate=1e-3, negatives=-1)
    for stages, why in (
        ((Stage(6, 1, 1e-3, head=False),), "in some stage the head must learn"),
        ((Stage(6, 1, 1e-3), Stage(0, 1, 1e-3)), "no stage may release layers before"),
    ):
        with pytest.raises(UsageError, match=why):
            dataclasses.replace(SMALL, stages=stages)


def test_all_that_draws_at_random_is_set_anew_each_epoch_the_backbones_own_layers_too() -> None:
    recipe = dataclasses.replace(SMALL, backbone="EfficientNetV2B0", stages=(Stage(0, 1, 1e-3),))
    learner = Learner(recipe, None)
    drawing = [layer for layer in learner.backbone.layers if isinstance(layer, keras.layers.Dropout) and layer.rate]
    assert drawing
    assert set(map(id, drawing)) < set(map(id, learner.dropouts()))


def test_more_layers_than_there_are_cannot_be_released() -> None:
    with pytest.raises(UsageError, match="MobileNet has 86 layers, of which 99 cannot be released"):
        Learner(dataclasses.replace(SMALL, stages=(Stage(99, 1, 1e-3),)), None)


def test_films_are_changed_the_same_way_for_the_same_seed_and_not_at_all_without_augmentation() -> None:
    films = np.arange(3)
    everything = Augmentation(flip=True, rotation=10, scale=0.1, shift=0.1, gain=0.2, gamma=0.2)
    np.testing.assert_array_equal(augment(FILMS, films, Augmentation(), (1,)), FILMS)
    changed = augment(FILMS, films, everything, (1,))
    np.testing.assert_array_equal(augment(FILMS, films, everything, (1,)), changed)
    np.testing.assert_array_equal(augment(FILMS, films[1:], everything, (1,)), changed[1:])
    assert (augment(FILMS, films, everything, (2,)) != changed).mean() > 0.5


def test_a_mirrored_film_is_mirrored_and_a_turned_one_turned_about_its_centre() -> None:
    many = np.repeat(FILMS[:1], 32, axis=0)
    flipped = augment(many, np.arange(32), Augmentation(flip=True), (0,))
    mirrored = [bool((film == FILMS[0, :, ::-1]).all()) for film in flipped]
    assert 8 < sum(mirrored) < 24
    assert all(m or (film == FILMS[0]).all() for m, film in zip(mirrored, flipped, strict=True))
    disc = np.hypot(*(np.indices((65, 65)) - 32)) < 20
    turned = augment((255 * disc[None]).astype(np.uint8), np.arange(1), Augmentation(rotation=90), (0,))[0]
    assert ((turned > 127) != disc).mean() < 0.01


def test_a_film_weighs_the_share_of_the_other_class_among_the_films_of_its_part() -> None:
    labels = [True] * 2 + [False] * 6 + [True] * 3 + [False] * 1 + [False] * 4
    parts = ["HAND"] * 8 + ["HIP"] * 4 + ["KNEE"] * 4
    examples = tuple(
        Example(str(i), str(i), str(i), label, part) for i, (label, part) in enumerate(zip(labels, parts, strict=True))
    )
    # one more, held out: what it is called must not matter
    held_out = Example("16", "16", "16", True, "HAND")
    dataset = Dataset(Path(), FRACATLAS, "fracture", (*examples, held_out))
    weights = class_weights(dataset, np.arange(16))
    assert weights[:16].mean() == pytest.approx(1)
    turned = dataclasses.replace(dataset, examples=(*examples, dataclasses.replace(held_out, label=False)))
    np.testing.assert_array_equal(class_weights(turned, np.arange(16))[:16], weights[:16])
    hand, hip = weights[:8], weights[8:12]
    assert hand[0] / hand[7] == pytest.approx(6 / 2)
    assert hip[0] / hip[3] == pytest.approx(1 / 3)
    assert hand[0] / hip[0] == pytest.approx((6 / 8) / (1 / 4))
    # all of one class: as in the data as a whole
    assert weights[12] / hand[7] == pytest.approx((5 / 16) / (2 / 8))
