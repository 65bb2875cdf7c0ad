"""The network during training computes the same as the inference network in the package."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.training.conftest import SIZE
from tests.training.recipes import SMALL
from training.fit.distance import fit_distance
from training.fit.learner import COMPONENTS, Learner
from training.recipes import Stage
from xray.errors import UsageError

# Keras 3.15 reads tensors through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

# A small one of each family; `backbone_names` has some forty.
FAMILIES = ("DenseNet121", "MobileNetV2", "ResNet50V2", "EfficientNetV2B0", "InceptionV3", "ConvNeXtTiny")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 96, 96), np.uint8)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_any_backbone_is_split_below_its_trainable_layers_and_the_head_folds_into_the_inference_network(
    backbone: str,
) -> None:
    recipe = dataclasses.replace(SMALL, backbone=backbone, input_size=96, stages=(Stage(0, 1, 1e-3), Stage(9, 1, 1e-3)))
    learner = Learner(recipe, None)
    features = learner.frozen_model()(IMAGES)
    pooled = np.asarray(learner.pooling_model()(features))
    learner.standardise(pooled + np.random.default_rng(0).normal(size=pooled.shape).astype(np.float32))
    logits = np.asarray(learner.image_classifier(Stage(9, 1, 1e-3))(IMAGES))[:, 0]
    np.testing.assert_allclose(np.asarray(learner.classifier(Stage(9, 1, 1e-3))(features))[:, 0], logits, atol=1e-5)
    np.testing.assert_allclose(np.asarray(learner.classifier(Stage(0, 1, 1e-3))(pooled))[:, 0], logits, atol=1e-5)
    learner.update_inference_model()
    learner.set_distance(*fit_distance(pooled, np.array([True, False, False]), COMPONENTS))
    inferred, cams, distances = (np.asarray(output) for output in learner.inference_model(IMAGES))
    # The head is rounded to float16.
    np.testing.assert_allclose(inferred, logits, rtol=0.02, atol=0.02)
    _, cams_from_features, distances_from_features = learner.inference_from_features()(features)
    np.testing.assert_allclose(np.asarray(cams_from_features), cams, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.asarray(distances_from_features), distances, rtol=1e-3)


def test_only_the_top_layers_are_trainable_and_batch_normalisation_never_is() -> None:
    learner = Learner(SMALL, None)
    learner.classifier(Stage(12, 1, 1e-3))
    layers = learner.backbone.layers
    assert not any(layer.trainable for layer in layers[:-12])
    normalisations = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert normalisations
    assert not any(layer.trainable for layer in normalisations)
    assert any(layer.trainable_variables for layer in layers[-12:])


def test_a_frozen_head_has_no_dropout_and_stays_unchanged_while_the_backbone_is_trained(
    backbone_weights: Path,
) -> None:
    learner = Learner(dataclasses.replace(SMALL, dropout=0.5), backbone_weights)
    images = IMAGES[:, :SIZE, :SIZE]
    features = np.asarray(learner.frozen_model()(images))
    # In training mode, as in a stage, not in inference mode.
    trainable = learner.classifier(Stage(12, 1, 1e-3))
    assert not np.array_equal(*(np.asarray(trainable(features, training=True)) for _ in range(2)))
    frozen = learner.classifier(Stage(12, 1, 1e-3, head=False))
    np.testing.assert_array_equal(*(np.asarray(frozen(features, training=True)) for _ in range(2)))

    before = [variable.numpy() for variable in learner.trainable_variables()]
    frozen = learner.classifier(Stage(12, 1, 1e-3, head=False))
    frozen.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.1), keras.losses.BinaryCrossentropy(from_logits=True))
    frozen.train_on_batch(features, np.array([[0.0], [1.0], [0.0]]))
    changed = [
        not np.array_equal(old, new.numpy()) for old, new in zip(before, learner.trainable_variables(), strict=True)
    ]
    # The last six variables are the head's three kernels and three biases.
    assert any(changed[:-6])
    assert not any(changed[-6:])

    logits = np.asarray(frozen(features))[:, 0]
    learner.update_inference_model()
    np.testing.assert_allclose(np.asarray(learner.inference_model(images)[0]), logits, rtol=0.02, atol=0.02)


def test_the_backbones_own_dropout_layers_are_seeded_in_each_epoch_too() -> None:
    recipe = dataclasses.replace(SMALL, backbone="EfficientNetV2B0", stages=(Stage(0, 1, 1e-3),))
    learner = Learner(recipe, None)
    dropout = [layer for layer in learner.backbone.layers if isinstance(layer, keras.layers.Dropout) and layer.rate]
    assert dropout
    assert set(map(id, dropout)) < set(map(id, learner.random_layers()))


def test_more_layers_than_the_backbone_has_cannot_be_trained() -> None:
    with pytest.raises(UsageError, match="MobileNet has 86 layers, so 99 of them cannot be trained"):
        Learner(dataclasses.replace(SMALL, stages=(Stage(99, 1, 1e-3),)), None)
