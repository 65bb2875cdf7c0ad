"""The network during training: the inference network's layers, split into a frozen and a trainable part."""

from pathlib import Path
from typing import Any, Literal, TypeGuard

import keras
import numpy as np
from numpy.typing import NDArray

from training.fit.pytorch_weights import SUFFIXES, load_efficientnet_lite
from training.recipes import Recipe, Stage
from xray.errors import UsageError
from xray.network.builder import (
    PYRAMID,
    CamHead,
    attention_of,
    backbone_of,
    build_network,
    feature_map_outputs,
    head_inputs,
    load_network,
    network_input,
    network_weights,
    summed_cells,
)
from xray.network.package import ModelPackage, round_to_storage

InitialWeights = Path | Literal["imagenet"] | ModelPackage | None
"""What the backbone starts from: a Keras weights file or EfficientNet-Lite2's from PyTorch, Keras' download, another
package's backbone, random weights."""

COMPONENTS = 64
"""Principal components of the network's distance (chosen by measurement, docs/model.md)."""

MIN_DEVIATION = 1e-3
"""Lower bound of a channel's standard deviation: dividing by less would amplify noise and exceed float16."""


RARE_LOGIT = -4.0
"""First logit of every cell: few have the finding, and without it their losses would drown it (Lin et al. 2017,
arXiv:1708.02002, section 3.3)."""


class Learner:
    """A recipe's network, ready for training.

    The training head has dropout and takes pooled features standardised to mean 0 and standard deviation 1.
    `update_inference_model` folds the standardisation into the three dense layers of the inference network, exactly.
    With a finer map, the logits of its cells are trained too, to tell where the finding is.

    Parameters
    ----------
    recipe : Recipe
        Backbone, sizes, stages, dropout and seed.
    initial_weights : Path, "imagenet", ModelPackage or None
        Initial weights of the backbone: a Keras weights file, Keras' download, another package's backbone, or random.

    Attributes
    ----------
    recipe : Recipe
        As passed in.
    inference_model : keras.Model
        The network of :func:`xray.network.builder.build_network`; it shares the backbone's layers.
    backbone : keras.Model
        The ``keras.applications`` model in it.
    attention : keras.layers.Dense or None
        A finer map's cells ``(N, h, w, D)`` to their logits ``(N, h, w, 1)``; None without a finer map.
    head : keras.Sequential
        The training head: pooled features ``(N, C)``, with a finer map ``(N, 2 C + D)``, to logits ``(N, 1)``.

    Raises
    ------
    UsageError
        If the network cannot be built, or the initial weights are missing or do not fit it.
    """

    def __init__(self, recipe: Recipe, initial_weights: InitialWeights) -> None:
        self.recipe = recipe
        source = None if isinstance(initial_weights, ModelPackage) or _is_pytorch(initial_weights) else initial_weights
        self.inference_model = build_network(
            recipe.backbone,
            recipe.input_size,
            recipe.head,
            recipe.pyramid,
            components=COMPONENTS,
            backbone_weights=source,
        )
        self.backbone = backbone_of(self.inference_model)
        if isinstance(initial_weights, ModelPackage):
            self._load_backbone(initial_weights)
        elif _is_pytorch(initial_weights):
            if recipe.backbone != "EfficientNetLite2":
                raise UsageError(f"PyTorch weights are read for EfficientNetLite2 only, not for {recipe.backbone}")
            load_efficientnet_lite(self.backbone, initial_weights)
        # Rounded as in a package, so that what is measured with the frozen layers holds for the package.
        self.backbone.set_weights([round_to_storage(weight) for weight in network_weights(self.backbone)])
        self._frozen_part, self._trainable_part = self._split_backbone()
        self.attention = self._build_attention()
        self.head = self._build_head()
        self._initial_values = [np.array(variable.numpy()) for variable in self.trainable_variables()]

    def frozen_model(self) -> keras.Model:
        """Return the layers that no stage trains: ``uint8 (N, size, size)`` to features ``(N, h, w, C)``."""
        images, scaled = network_input(self.recipe.backbone, self.recipe.input_size)
        features = scaled if self._frozen_part is None else self._frozen_part(scaled)
        return keras.Model(images, features, name="frozen")

    def pooling_model(self) -> keras.Model:
        """Return the rest of the backbone with pooling: the frozen layers' features to pooled features ``(N, C)``.

        They are of the last map or, with a finer map, of the one that it begins with, which the distance compares.
        """
        features = keras.Input(self._trainable_part.input_shape[1:])
        return keras.Model(features, _pool(self._feature_maps(features)[-1]), name="pooling")

    def classifier(self, stage: Stage) -> keras.Model:
        """Return the model that a stage trains, with its layers frozen or unfrozen.

        Its input is the frozen layers' features, or pooled features if the stage trains the head alone. It gives logits
        ``(N, 1)``, and with a finer map also its cells' logits ``(N, h, w)``.
        """
        self._set_trainable(stage)
        if not stage.trainable_layers:
            pooled = keras.Input(self.backbone.output_shape[-1:])
            return keras.Model(pooled, self._apply_head(pooled, stage), name="classifier")
        features = keras.Input(self._trainable_part.input_shape[1:])
        return keras.Model(features, self._classify(self._feature_maps(features), stage), name="classifier")

    def image_classifier(self, stage: Stage) -> keras.Model:
        """Return a stage's classifier with the frozen layers in it: its input is ``uint8 (N, size, size)``."""
        self._set_trainable(stage)
        frozen = self.frozen_model()
        outputs = self._classify(self._feature_maps(frozen.output), stage)
        return keras.Model(frozen.input, outputs, name="image_classifier")

    def inference_from_features(self) -> keras.Model:
        """Return the inference network after the frozen layers, with its outputs; it takes their features."""
        features = keras.Input(self._trainable_part.input_shape[1:])
        maps = self._feature_maps(features)
        outputs = self.inference_model.get_layer("head")(*head_inputs(self.inference_model, maps))
        distances = self.inference_model.get_layer("distance")(maps[-1])
        return keras.Model(features, (*outputs, distances), name="inference_from_features")

    @property
    def map_shape(self) -> tuple[int, int]:
        """Height and width of the CAM, in cells."""
        height, width = self.inference_model.outputs[1].shape[1:]
        return height, width

    def trainable_variables(self) -> list[Any]:
        """Return the variables that any stage of the recipe trains, always in the same order."""
        attention = [] if self.attention is None else self.attention.weights
        return [*self._backbone_variables(), *self._pyramid_variables(), *attention, *self._dense_variables()]

    def new_variables(self) -> list[Any]:
        """Return the trainable variables outside the backbone, whose first values are random."""
        backbone = set(map(id, self._backbone_variables()))
        return [variable for variable in self.trainable_variables() if id(variable) not in backbone]

    def random_layers(self) -> list[Any]:
        """Return the layers with a random number generator: the head's dropout, and the backbone's if it has some."""
        layers = (*self.backbone.layers, *self.head.layers)
        return [layer for layer in layers if getattr(layer, "seed_generator", None) is not None]

    def initial_values(self) -> list[NDArray[np.float32]]:
        """Return all weights before training: the backbone's, then the trainable ones.

        Returns
        -------
        list of ndarray of float32
            Each with its variable's shape.
        """
        return [*network_weights(self.backbone), *self._initial_values]

    def reset(self) -> None:
        """Set the trainable variables back to their values before training."""
        for variable, value in zip(self.trainable_variables(), self._initial_values, strict=True):
            variable.assign(value)

    def standardise(self, pooled: NDArray[np.float32]) -> None:
        """Set the head's standardisation so that these pooled features ``(N, C)`` get mean 0 and deviation 1.

        Not with a finer map: made as large as that, the averages over the whole image would count for more than what is
        attended to.
        """
        self._mean.assign(pooled.mean(axis=0))
        self._scale.assign(1 / np.maximum(pooled.std(axis=0), MIN_DEVIATION))

    def update_inference_model(self) -> None:
        """Copy the trained weights into the inference network, with standardisation folded in, rounded as stored."""
        for variable in (*self._backbone_variables(), *self._pyramid_variables()):
            variable.assign(round_to_storage(variable.numpy()))
        kernels_and_biases = [variable.numpy() for variable in self._dense_variables()]
        mean, scale = (each.numpy().astype(np.float64) for each in (self._mean, self._scale))
        kernel = kernels_and_biases[0] * scale[:, None]
        bias = kernels_and_biases[1] - mean @ kernel
        values = [round_to_storage(np.asarray(v, np.float32)) for v in (kernel, bias, *kernels_and_biases[2:])]
        head: CamHead = self.inference_model.get_layer("head")
        for variable, value in zip((*head.kernels, *head.biases), (*values[::2], *values[1::2]), strict=True):
            variable.assign(value)
        if self.attention is not None:
            head.attention_kernel.assign(round_to_storage(self.attention.kernel.numpy()))

    def set_distance(self, *weights: NDArray[np.float32]) -> None:
        """Set the weights of the network's distance, in its layer's order, rounded as stored."""
        self.inference_model.get_layer("distance").set_weights([round_to_storage(weight) for weight in weights])

    def _backbone_variables(self) -> list[Any]:
        """Return the backbone's variables that any stage trains."""
        self._unfreeze(max(stage.trainable_layers for stage in self.recipe.stages))
        return list(self.backbone.trainable_variables)

    def _pyramid_variables(self) -> list[Any]:
        return [] if self.attention is None else list(self.inference_model.get_layer(PYRAMID).variables)

    def _dense_variables(self) -> list[Any]:
        """Return the head's kernels ``(in, out)`` and biases ``(out,)`` in turn, frozen or not."""
        return [
            variable
            for layer in self.head.layers
            if isinstance(layer, keras.layers.Dense)
            for variable in layer.weights
        ]

    def _set_trainable(self, stage: Stage) -> None:
        self._unfreeze(stage.trainable_layers)
        self.head.trainable = stage.head

    def _unfreeze(self, count: int) -> None:
        """Make the backbone's top layers trainable, without batch normalisation, and freeze all others."""
        layers = self.backbone.layers
        first = len(layers) - count
        if first < 0:
            raise UsageError(f"{self.recipe.backbone} has {len(layers)} layers, so {count} of them cannot be trained")
        for number, layer in enumerate(layers):
            layer.trainable = number >= first and not isinstance(layer, keras.layers.BatchNormalization)

    def _feature_maps(self, features: Any) -> list[Any]:
        """Return the backbone's feature maps that the head needs, from the frozen layers' features."""
        maps = self._trainable_part(features)
        return maps if isinstance(maps, list) else [maps]

    def _classify(self, feature_maps: list[Any], stage: Stage) -> Any:
        coarse, *finer = head_inputs(self.inference_model, feature_maps)
        if self.attention is None:
            return self._apply_head(_pool(coarse), stage)
        cells = keras.ops.squeeze(self.attention(finer[0]), -1)
        attention = attention_of(cells)
        scale = finer[0].shape[1] // coarse.shape[1]
        attended = [
            keras.ops.sum(each * keras.ops.expand_dims(weights, -1), axis=(1, 2))
            for each, weights in ((finer[0], attention), (coarse, summed_cells(attention, scale)))
        ]
        return [self._apply_head(keras.ops.concatenate([_pool(coarse), *attended], axis=-1), stage), cells]

    def _apply_head(self, pooled: Any, stage: Stage) -> Any:
        # A frozen head runs without dropout. It is left out, as Keras passes training=True on to all layers of a model.
        for layer in self.head.layers:
            if stage.head or not isinstance(layer, keras.layers.Dropout):
                pooled = layer(pooled)
        return pooled

    def _build_attention(self) -> keras.layers.Dense | None:
        if self.recipe.pyramid is None:
            return None
        layer = keras.layers.Dense(
            1,
            kernel_initializer=keras.initializers.HeNormal(self.recipe.seed),
            bias_initializer=keras.initializers.Constant(RARE_LOGIT),
            dtype="float32",
            name="attention",
        )
        layer.build((None, *self.map_shape, self.recipe.pyramid.channels))
        return layer

    def _build_head(self) -> keras.Sequential:
        recipe = self.recipe
        channels = self.backbone.output_shape[-1]
        if recipe.pyramid is not None:
            channels = 2 * channels + recipe.pyramid.channels
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
        head = keras.Sequential(layers, name="training_head")
        self._mean, self._scale = standardise.mean, standardise.scale
        return head

    def _load_backbone(self, package: ModelPackage) -> None:
        if package.card.backbone != self.recipe.backbone:
            raise UsageError(
                f"{package.path} has the backbone {package.card.backbone}, the recipe {self.recipe.backbone}: give "
                "weights of the same backbone, or choose the backbone with --backbone"
            )
        self.backbone.set_weights(backbone_of(load_network(package)).get_weights())

    def _split_backbone(self) -> tuple[keras.Model | None, keras.Model]:
        """Split the backbone below every trainable layer, or lower, where one tensor alone connects the two parts."""
        layers, outputs = self.backbone.layers, feature_map_outputs(self.inference_model)
        trainable = max(1, *(stage.trainable_layers for stage in self.recipe.stages))
        for first in range(len(layers) - trainable, 0, -1):
            crossing = _crossing_tensors(layers, first)
            if len(crossing) == 1:
                try:
                    return keras.Model(self.backbone.input, crossing[0]), keras.Model(crossing[0], outputs)
                # If layers are listed in a different order than they are called in, or the finer map is below, this is
                # not a place to split.
                except ValueError:
                    continue
        return None, keras.Model(self.backbone.input, outputs)


@keras.saving.register_keras_serializable(package="bonescreen")
class Standardise(keras.layers.Layer):  # type: ignore[misc]
    """``(x - mean) * scale`` for features ``(N, C)``, with constant mean and scale."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Create the two vectors."""
        self.mean = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False, name="mean")
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", trainable=False, name="scale")

    def call(self, features: Any) -> Any:
        """Return standardised features."""
        return (features - self.mean) * self.scale


def _is_pytorch(initial_weights: InitialWeights) -> TypeGuard[Path]:
    return isinstance(initial_weights, Path) and initial_weights.suffix in SUFFIXES


def _pool(feature_map: Any) -> Any:
    return keras.layers.GlobalAveragePooling2D(dtype="float32")(feature_map)


def _crossing_tensors(layers: list[keras.layers.Layer], first: int) -> list[Any]:
    """Return the tensors that layers from ``first`` on take from layers before it."""
    outputs = {id(tensor): tensor for layer in layers[:first] for tensor in keras.tree.flatten(layer.output)}
    used = {id(tensor) for layer in layers[first:] for tensor in keras.tree.flatten(layer.input)}
    return [outputs[key] for key in outputs if key in used]
