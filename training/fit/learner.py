"""The network as it is trained: the same layers as the inference network, cut in two, with dropout in its head."""

from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from training.recipes import Recipe, Stage
from xray.errors import UsageError
from xray.network.builder import (
    CamHead,
    backbone_of,
    build_network,
    load_network,
    network_input,
    network_weights,
)
from xray.network.package import ModelPackage, round_to_storage

MIN_DEVIATION = 1e-3
"""Channels that hardly vary are not blown up: their noise would be, and float16 would not hold the kernel."""

Initial = Path | Literal["imagenet"] | ModelPackage | None


class Learner:
    """A recipe's network, ready to learn.

    The head that learns has dropout, and sees pooled features of mean 0 and deviation 1; `ship` makes of it the
    three dense layers of the inference network, exactly.

    Parameters
    ----------
    recipe : Recipe
        Backbone, sizes, dropout, seed.
    initial : Path, "imagenet", ModelPackage or None
        What the backbone starts from: a Keras weights file, what Keras downloads, another package's backbone, or
        random numbers.

    Attributes
    ----------
    network : keras.Model
        The inference network, from :func:`xray.network.builder.build_network`; it shares the backbone's layers.
    backbone : keras.Model
        The Keras application in it.
    head : keras.Sequential
        Pooled features in, logits ``(N, 1)`` out.

    Raises
    ------
    UsageError
        If the network cannot be built, or the initial weights are missing or of another network.
    """

    def __init__(self, recipe: Recipe, initial: Initial) -> None:
        self.recipe = recipe
        source = None if isinstance(initial, ModelPackage) else initial
        self.network = build_network(recipe.backbone, recipe.input_size, recipe.head, backbone_weights=source)
        self.backbone = backbone_of(self.network)
        if isinstance(initial, ModelPackage):
            self._start_from(initial)
        # As they will ship, so that what is measured on the frozen layers holds for the package.
        self.backbone.set_weights([round_to_storage(weight) for weight in network_weights(self.backbone)])
        self._below, self._above = self._cut()
        self.head = self._head()
        self._initial = [np.array(variable.numpy()) for variable in self.learnt()]

    def standardise(self, pooled: NDArray[np.float32]) -> None:
        """Have the head see these pooled features ``(N, C)`` with mean 0 and deviation 1."""
        deviation = np.maximum(pooled.std(axis=0), MIN_DEVIATION)
        self._mean.assign(pooled.mean(axis=0))
        self._scale.assign(1 / deviation)

    def trunk(self) -> keras.Model:
        """Return what is frozen in every stage: ``uint8 (N, size, size)`` to features ``(N, h, w, C)``."""
        images, scaled = network_input(self.recipe.backbone, self.recipe.input_size)
        return keras.Model(images, scaled if self._below is None else self._below(scaled), name="trunk")

    def pooling(self) -> keras.Model:
        """Return the rest of the backbone, and the pooling: the trunk's features to pooled ones ``(N, C)``."""
        features = keras.Input(self._above.input_shape[1:])
        return keras.Model(features, _pool(self._above(features)), name="pooling")

    def classifier(self, stage: Stage) -> keras.Model:
        """Return what learns in a stage, its layers set to learn or not: to logits ``(N, 1)``.

        It is given the trunk's features, or pooled ones if only the head learns.
        """
        self._set_learning(stage)
        if not stage.release:
            pooled = keras.Input(self.backbone.output_shape[-1:])
            return keras.Model(pooled, self._ends_in_head(pooled, stage), name="classifier")
        features = keras.Input(self._above.input_shape[1:])
        return keras.Model(features, self._ends_in_head(_pool(self._above(features)), stage), name="classifier")

    def whole(self, stage: Stage) -> keras.Model:
        """Return the whole network, as `classifier` lets it learn: ``uint8 (N, size, size)`` to logits ``(N, 1)``."""
        self._set_learning(stage)
        images, scaled = network_input(self.recipe.backbone, self.recipe.input_size)
        return keras.Model(images, self._ends_in_head(_pool(self.backbone(scaled)), stage), name="whole")

    def explainer(self) -> keras.Model:
        """Return the inference network from the trunk's features on: logits ``(N,)`` and CAMs ``(N, h, w)``."""
        features = keras.Input(self._above.input_shape[1:])
        return keras.Model(features, self.network.get_layer("head")(self._above(features)), name="explainer")

    def first_weights(self) -> list[NDArray[np.float32]]:
        """Return all that the network begins with: the backbone, and what of the head learns."""
        return [*network_weights(self.backbone), *self._initial]

    def reset(self) -> None:
        """Forget all that was learnt."""
        for variable, value in zip(self.learnt(), self._initial, strict=True):
            variable.assign(value)

    def learnt(self) -> list[Any]:
        """Return the variables that some stage of the recipe lets learn, always in the same order."""
        return [*self._released_variables(), *self._dense_variables()]

    def dropouts(self) -> list[Any]:
        """Return the layers that draw at random while they learn: the head's, and those of backbones that have some."""
        layers = (*self.backbone.layers, *self.head.layers)
        return [layer for layer in layers if getattr(layer, "seed_generator", None) is not None]

    def ship(self) -> None:
        """Make the inference network what a package will hold: rounded as stored, standardisation folded in."""
        for variable in self._released_variables():
            variable.assign(round_to_storage(variable.numpy()))
        kernels_and_biases = [variable.numpy() for variable in self._dense_variables()]
        mean, scale = (each.numpy().astype(np.float64) for each in (self._mean, self._scale))
        kernel = kernels_and_biases[0] * scale[:, None]
        bias = kernels_and_biases[1] - mean @ kernel
        values = [round_to_storage(np.asarray(v, np.float32)) for v in (kernel, bias, *kernels_and_biases[2:])]
        head: CamHead = self.network.get_layer("head")
        for variable, value in zip((*head.kernels, *head.biases), (*values[::2], *values[1::2]), strict=True):
            variable.assign(value)

    def _released_variables(self) -> list[Any]:
        """Return what of the backbone some stage lets learn, whether or not it learns just now."""
        self._set_released(max(stage.release for stage in self.recipe.stages))
        return list(self.backbone.trainable_variables)

    def _dense_variables(self) -> list[Any]:
        """Return the head's kernels ``(in, out)`` and biases ``(out,)`` in turn, whether or not they learn just now."""
        return [
            variable
            for layer in self.head.layers
            if isinstance(layer, keras.layers.Dense)
            for variable in layer.weights
        ]

    def _ends_in_head(self, pooled: Any, stage: Stage) -> Any:
        # Dropout is for a head that learns; left out, as Keras passes a model's training=True on to all its layers.
        for layer in self.head.layers:
            if stage.head or not isinstance(layer, keras.layers.Dropout):
                pooled = layer(pooled)
        return pooled

    def _set_learning(self, stage: Stage) -> None:
        self._set_released(stage.release)
        self.head.trainable = stage.head

    def _head(self) -> keras.Sequential:
        recipe = self.recipe
        channels = self.backbone.output_shape[-1]
        standardise = Standardise(dtype="float32", name="standardise")
        layers: list[Any] = [keras.Input((channels,)), standardise]
        for number, width in enumerate((*recipe.head, 1), start=1):
            layers += [
                keras.layers.Dropout(recipe.dropout, seed=recipe.seed + number, dtype="float32"),
                keras.layers.Dense(
                    width,
                    "relu" if width != 1 or number < 3 else None,
                    kernel_initializer=keras.initializers.HeNormal(recipe.seed + number),
                    dtype="float32",
                ),
            ]
        head = keras.Sequential(layers, name="learning_head")
        self._mean, self._scale = standardise.mean, standardise.scale
        return head

    def _start_from(self, package: ModelPackage) -> None:
        if package.card.backbone != self.recipe.backbone:
            raise UsageError(
                f"{package.path} has a {package.card.backbone}, the recipe a {self.recipe.backbone}: "
                "give weights of the same backbone, or choose it with --backbone"
            )
        self.backbone.set_weights(backbone_of(load_network(package)).get_weights())

    def _set_released(self, release: int) -> None:
        layers = self.backbone.layers
        first = len(layers) - release
        if first < 0:
            raise UsageError(f"{self.recipe.backbone} has {len(layers)} layers, of which {release} cannot be released")
        for number, layer in enumerate(layers):
            layer.trainable = number >= first and not isinstance(layer, keras.layers.BatchNormalization)

    def _cut(self) -> tuple[keras.Model | None, keras.Model]:
        """Part the backbone below all that ever learns, or as little lower as one tensor alone crosses."""
        layers, output = self.backbone.layers, self.backbone.output
        release = max(1, *(stage.release for stage in self.recipe.stages))
        for first in range(len(layers) - release, 0, -1):
            crossing = _crossing(layers, first)
            if len(crossing) == 1:
                try:
                    return keras.Model(self.backbone.input, crossing[0]), keras.Model(crossing[0], output)
                # Layers may be listed in another order than they are called in; then this is no place to cut.
                except ValueError:
                    continue
        return None, self.backbone


@keras.saving.register_keras_serializable(package="bonescreen")
class Standardise(keras.layers.Layer):  # type: ignore[misc]
    """``(x - mean) * scale`` for features ``(N, C)``, both fixed."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Create the two vectors."""
        self.mean = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False, name="mean")
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", trainable=False, name="scale")

    def call(self, features: Any) -> Any:
        """Return standardised features."""
        return (features - self.mean) * self.scale


def _pool(feature_map: Any) -> Any:
    return keras.layers.GlobalAveragePooling2D(dtype="float32")(feature_map)


def _crossing(layers: list[keras.layers.Layer], first: int) -> list[Any]:
    """Return the tensors that layers from ``first`` on take from layers before it."""
    made = {id(tensor): tensor for layer in layers[:first] for tensor in keras.tree.flatten(layer.output)}
    used = {id(tensor) for layer in layers[first:] for tensor in keras.tree.flatten(layer.input)}
    return [made[key] for key in made if key in used]
