"""The network: a Keras application or one like it, and a head that also computes the class activation map (CAM).

Training, the Keras engine and the OpenVINO graph all use :func:`build_network`.
"""

import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from xray.errors import PackageError, UsageError
from xray.network.card import Card, FeaturePyramid
from xray.network.distance import FeatureDistance
from xray.network.efficientnet_lite import EfficientNetLite2
from xray.network.package import ModelPackage, read_weights

_REFUSED_PREFIX = "EfficientNetB"
_OWN_BACKBONES: dict[str, Callable[..., keras.Model]] = {"EfficientNetLite2": EfficientNetLite2}

ATTENTION_KERNEL = "attention_kernel"
"""Name of the weight by which the head attends to a finer map."""

PYRAMID = "pyramid"
"""Name of the layers between the backbone and a finer map."""

DataFormat = Literal["channels_last", "channels_first"]


@keras.saving.register_keras_serializable(package="bonescreen")
class CamHead(keras.layers.Layer):  # type: ignore[misc]
    r"""Pooling and three dense layers, with the class activation map of the logit.

    Without a finer map, the backbone's last feature map ``A`` is pooled by global averages alone. With one, ``F``, the
    attention-weighted means [2]_ of both are appended: a single linear unit gives each cell of ``F`` a logit, and the
    attention ``a`` is the softmax of these over all cells. A cell of ``A`` has the attention of its cells of ``F``.

    The dense layers are ReLU, ReLU and one linear unit, so the gradient of the logit by a pooled channel is a product
    of weight matrices and ReLU masks, and needs no backward pass. With ``n`` cells, the attention held fixed, ``A``
    repeated to the size of ``F``, and ``[F, A]`` the channels of both,

    .. math:: cam_{ij} = \sum_k \frac{\partial logit}{\partial pooled_k} A_{ijk}
                       + n a_{ij} \sum_l \frac{\partial logit}{\partial attended_l} [F, A]_{ijl}

    and its spatial mean plus the head's effective bias is the logit. Without a finer map it is ``h * w`` times Grad-CAM
    [1]_ before its ReLU.

    The layer computes in float32 under every dtype policy.

    Parameters
    ----------
    units : tuple of int
        Widths of the two hidden layers.
    data_format : {"channels_last", "channels_first"}
        Layout of the feature maps.

    References
    ----------
    .. [1] Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv:1610.02391.
    .. [2] Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, arXiv:1802.04712.
    """

    def __init__(self, units: tuple[int, int], data_format: DataFormat = "channels_last", **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.units = tuple(units)
        self.data_format = data_format

    def build(self, feature_map_shape: tuple[Any, ...], finer_map_shape: tuple[Any, ...] | None = None) -> None:
        """Create the kernels and biases for feature maps of these shapes."""
        axis = 1 if self.data_format == "channels_first" else -1
        channels = feature_map_shape[axis]
        if finer_map_shape is not None:
            self.attention_kernel = self.add_weight(
                shape=(finer_map_shape[axis], 1), initializer="he_normal", name=ATTENTION_KERNEL
            )
            channels += finer_map_shape[axis] + feature_map_shape[axis]
        widths = (channels, *self.units, 1)
        self.kernels = [
            self.add_weight(shape=widths[i : i + 2], initializer="he_normal", name=f"kernel_{i + 1}") for i in range(3)
        ]
        self.biases = [
            self.add_weight(shape=(widths[i + 1],), initializer="zeros", name=f"bias_{i + 1}") for i in range(3)
        ]

    def call(self, feature_map: Any, finer_map: Any = None) -> tuple[Any, Any]:
        """Compute logits and CAMs.

        Parameters
        ----------
        feature_map : tensor, (N, h, w, C) or (N, C, h, w)
            The backbone's last feature map.
        finer_map : tensor, (N, s h, s w, D) or (N, D, s h, s w), or None
            The finer map, s a whole number.

        Returns
        -------
        logits : tensor of float32, (N,)
        cams : tensor of float32, (N, h, w) or (N, s h, s w)
            Signed, in units of the logit.
        """
        first = self.data_format == "channels_first"
        pooled = ops.mean(feature_map, axis=(2, 3) if first else (1, 2))
        if finer_map is None:
            logits, gradient = self._logits_and_gradient(pooled)
            return logits, self._weighted_sum(feature_map, gradient)
        cells = self._weighted_sum(finer_map, ops.transpose(self.attention_kernel))
        attention = attention_of(cells)
        scale = finer_map.shape[2] // feature_map.shape[2]
        fine, coarse = (
            ops.sum(each * ops.expand_dims(weights, 1 if first else -1), axis=(2, 3) if first else (1, 2))
            for each, weights in ((finer_map, attention), (feature_map, summed_cells(attention, scale)))
        )
        logits, gradient = self._logits_and_gradient(ops.concatenate([pooled, fine, coarse], axis=-1))
        by_pooled, by_fine, by_coarse = ops.split(
            gradient, [pooled.shape[-1], pooled.shape[-1] + fine.shape[-1]], axis=-1
        )
        evenly = repeated_cells(self._weighted_sum(feature_map, by_pooled), scale)
        attended = self._weighted_sum(finer_map, by_fine)
        attended = attended + repeated_cells(self._weighted_sum(feature_map, by_coarse), scale)
        return logits, evenly + attended * attention * (attention.shape[1] * attention.shape[2])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of :meth:`__init__`, for Keras to make the layer again."""
        return {**super().get_config(), "units": self.units, "data_format": self.data_format}

    def _logits_and_gradient(self, pooled: Any) -> tuple[Any, Any]:
        """Return logits ``(N,)`` and their gradient by the pooled channels ``(N, C)``."""
        # relu(x + b) is written max(x, -b) + b, and the last product as a sum: OpenVINO would fuse a product and its
        # bias, and then compute both in the precision of the backbone.
        product_1 = ops.matmul(pooled, self.kernels[0])
        hidden_1 = ops.maximum(product_1, -self.biases[0]) + self.biases[0]
        product_2 = ops.matmul(hidden_1, self.kernels[1])
        hidden_2 = ops.maximum(product_2, -self.biases[1]) + self.biases[1]
        last_kernel = ops.transpose(self.kernels[2])
        logits = ops.sum(hidden_2 * last_kernel, axis=-1) + self.biases[2]
        gradient = ops.cast(product_2 > -self.biases[1], "float32") * last_kernel
        gradient = ops.matmul(gradient, ops.transpose(self.kernels[1]))
        gradient = ops.cast(product_1 > -self.biases[0], "float32") * gradient
        return logits, ops.matmul(gradient, ops.transpose(self.kernels[0]))

    def _weighted_sum(self, feature_map: Any, weights: Any) -> Any:
        """Sum a feature map's channels with weights ``(N, C)`` to ``(N, h, w)``."""
        return ops.sum(
            feature_map * self._across_cells(weights), axis=1 if self.data_format == "channels_first" else -1
        )

    def _across_cells(self, weights: Any) -> Any:
        return weights[:, :, None, None] if self.data_format == "channels_first" else weights[:, None, None, :]


def attention_of(cells: Any) -> Any:
    """Return the softmax of cell logits ``(N, h, w)`` over all cells of an image."""
    height, width = cells.shape[1:]
    flat = ops.softmax(ops.reshape(cells, (-1, height * width)), axis=-1)
    return ops.reshape(flat, (-1, height, width))


def summed_cells(cells: Any, scale: int) -> Any:
    """Sum each ``scale x scale`` block of cells ``(N, h, w)``."""
    height, width = (side // scale for side in cells.shape[1:])
    return ops.sum(ops.reshape(cells, (-1, height, scale, width, scale)), axis=(2, 4))


def repeated_cells(cells: Any, scale: int) -> Any:
    """Repeat each cell ``(N, h, w)`` in a ``scale x scale`` block."""
    return ops.repeat(ops.repeat(cells, scale, axis=1), scale, axis=2)


def build_network(
    backbone: str,
    input_size: int,
    head: tuple[int, int],
    pyramid: FeaturePyramid | None = None,
    *,
    components: int | None = None,
    data_format: DataFormat = "channels_last",
    backbone_weights: Path | Literal["imagenet"] | None = None,
) -> keras.Model:
    """Build the inference network: ``uint8 (N, input_size, input_size)`` in, logits, CAMs and distances out.

    The conversion from gray to RGB and the Keras application's own preprocessing are part of the network, so every
    engine takes the same bytes.

    Parameters
    ----------
    backbone : str
        Name of a ``keras.applications`` model, such as ``"DenseNet121"`` (Huang et al. 2017, arXiv:1608.06993).
    input_size : int
        Side of the square input, pixels.
    head : tuple of int
        Widths of the head's two hidden layers.
    pyramid : FeaturePyramid or None
        The finer map that the head attends to; None for the backbone's last feature map alone.
    components : int or None
        Principal components of :class:`xray.network.distance.FeatureDistance`; without it, the network gives no
        distances.
    data_format : {"channels_last", "channels_first"}
        Layout inside the backbone; the weights are the same for both.
    backbone_weights : Path, "imagenet" or None
        The backbone's first weights: from a Keras weights file, downloaded by Keras, or random.

    Returns
    -------
    keras.Model
        Outputs ``logits`` float32 ``(N,)``, ``cams`` float32 ``(N, h, w)``, signed, in units of the logit, and with
        ``components`` ``distances`` float32 ``(N,)``.

    Raises
    ------
    UsageError
        If the backbone, its layer for the finer map or the weights file does not exist, the weights cannot be
        downloaded, or the backbone cannot be built in this size or layout.
    """
    application = backbone_function(backbone)
    images, scaled = network_input(backbone, input_size, data_format=data_format)
    built = _build_backbone(application, input_size, data_format, backbone_weights)
    if pyramid is None:
        earliest = built(scaled)
        feature_maps = [earliest]
    else:
        built = _with_layer_output(built, pyramid.layer)
        coarse, earliest = built(scaled)
        feature_maps = [coarse, _build_pyramid(coarse.shape, earliest.shape, pyramid, data_format)([coarse, earliest])]
    outputs = CamHead(head, data_format, name="head")(*feature_maps)
    if components is not None:
        # Beside a finer map the last one becomes sparse: that of most images, and of most pictures of other things,
        # is zero throughout.
        outputs = (*outputs, FeatureDistance(components, data_format, name="distance")(earliest))
    return keras.Model(images, outputs, name="bonescreen")


def build_from_card(card: Card, *, data_format: DataFormat = "channels_last") -> keras.Model:
    """Build the network that a card describes, with random weights; raises as :func:`build_network` does."""
    return build_network(
        card.backbone, card.input_size, card.head, card.pyramid, components=card.components, data_format=data_format
    )


def _with_layer_output(backbone: keras.Model, layer: str) -> keras.Model:
    """Return a backbone that also returns the output of one of its layers."""
    try:
        fine = backbone.get_layer(layer).output
    except ValueError as error:
        raise UsageError(f"{backbone.name} has no layer named {layer!r} for a finer map") from error
    return keras.Model(backbone.input, [backbone.output, fine], name=backbone.name)


def _build_pyramid(
    coarse: tuple[Any, ...], fine: tuple[Any, ...], pyramid: FeaturePyramid, data_format: DataFormat
) -> keras.Model:
    """Build the top-down step of a feature pyramid (Lin et al. 2017, arXiv:1612.03144): two feature maps to one."""
    if len(fine) != len(coarse):
        raise UsageError(f"{pyramid.layer} gives no feature map, so no finer map can be computed from it")
    side = 2 if data_format == "channels_first" else 1
    scale, rest = divmod(fine[side], coarse[side])
    if rest or scale < 1:
        raise UsageError(f"{pyramid.layer} has {fine[side]} cells a side, which is no multiple of {coarse[side]}")
    inputs = [keras.Input(coarse[1:]), keras.Input(fine[1:])]
    convolve = partial(keras.layers.Conv2D, pyramid.channels, data_format=data_format)
    above, lateral = convolve(1, name="above")(inputs[0]), convolve(1, name="lateral")(inputs[1])
    above = keras.layers.UpSampling2D(scale, data_format=data_format, name="above_repeated")(above)
    merged = keras.layers.ReLU(name="merged_relu")(keras.layers.Add(name="merged")([above, lateral]))
    finer = convolve(3, padding="same", activation="relu", name="finer")(merged)
    return keras.Model(inputs, finer, name=PYRAMID)


def network_input(backbone: str, input_size: int, *, data_format: DataFormat = "channels_last") -> tuple[Any, Any]:
    """Return the network's symbolic input, and the backbone's input computed from it.

    Parameters
    ----------
    backbone : str
        Name of a ``keras.applications`` model, whose own scaling is applied.
    input_size : int
        Side of the square input, pixels.
    data_format : {"channels_last", "channels_first"}
        Layout of the backbone's input.

    Returns
    -------
    images : KerasTensor of uint8, (N, input_size, input_size)
        Gray.
    scaled : KerasTensor of float32, (N, input_size, input_size, 3) or (N, 3, input_size, input_size)
        RGB, scaled as the backbone expects.
    """
    preprocess_input = sys.modules[backbone_function(backbone).__module__].preprocess_input
    images = keras.Input((input_size, input_size), dtype="uint8", name="images")
    gray = ops.cast(images, "float32")
    rgb = ops.stack([gray, gray, gray], axis=1 if data_format == "channels_first" else -1)
    return images, preprocess_input(rgb, data_format=data_format)


def backbone_of(network: keras.Model) -> keras.Model:
    """Return the Keras application inside a network from :func:`build_network`, with its last feature map as output."""
    built = _built_backbone(network)
    return built if len(built.outputs) == 1 else keras.Model(built.input, built.outputs[0], name=built.name)


def scaling_of(network: keras.Model) -> keras.Model:
    """Return the part of a network before its backbone: ``uint8 (N, size, size)`` to the backbone's input."""
    before = network.operations[network.operations.index(_built_backbone(network)) - 1]
    return keras.Model(network.input, before.output, name="scaling")


def feature_map_outputs(network: keras.Model) -> list[Any]:
    """Return the backbone's symbolic outputs that the head needs: its last feature map, and that for a finer one."""
    outputs: list[Any] = _built_backbone(network).outputs
    return outputs


def head_inputs(network: keras.Model, feature_maps: Sequence[Any]) -> list[Any]:
    """Return what the head takes, its last feature map and any finer one, from the backbone's feature maps."""
    if len(feature_maps) == 1:
        return list(feature_maps)
    return [feature_maps[0], network.get_layer(PYRAMID)(list(feature_maps))]


def head_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers with weights after the backbone: the head, and those of a finer map."""
    return [layer for layer in network.layers if layer.weights and layer is not _built_backbone(network)]


def _built_backbone(network: keras.Model) -> keras.Model:
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def load_network(package: ModelPackage, *, data_format: DataFormat = "channels_last") -> keras.Model:
    """Build a package's network and put the package's weights into it, as float32.

    Raises
    ------
    PackageError
        If the card's network cannot be built, or the weights are not this network's.
    """
    card = package.card
    try:
        network = build_from_card(card, data_format=data_format)
    except UsageError as error:
        raise PackageError(f"{package.path / 'card.json'}: {error}") from error
    shapes = [tuple(variable.shape) for variable in network.weights]
    for variable, value in zip(network.weights, read_weights(package.weights_path, shapes), strict=True):
        variable.assign(value)
    return network


def network_weights(network: keras.Model) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Return a network's weights, float32, in the order a package stores them."""
    return [np.asarray(weight, np.float32) for weight in network.get_weights()]


def backbone_names() -> list[str]:
    """Return the names of the backbones that :func:`build_network` accepts, sorted."""
    return sorted(
        name
        for name, value in {**vars(keras.applications), **_OWN_BACKBONES}.items()
        if inspect.isfunction(value) and not name.startswith(_REFUSED_PREFIX)
    )


def backbone_function(backbone: str) -> Callable[..., keras.Model]:
    """Return the ``keras.applications`` function that builds a backbone.

    Raises
    ------
    UsageError
        If there is no such backbone, or it is one that cannot be used.
    """
    if backbone.startswith(_REFUSED_PREFIX):
        raise UsageError(
            f"{backbone} cannot be a backbone: Keras scales its input in one way for weights that it downloads and in "
            "a different one for weights from a file; use EfficientNetV2 instead"
        )
    if backbone not in backbone_names():
        raise UsageError(f"no backbone named {backbone!r}; one of: {', '.join(backbone_names())}")
    application: Callable[..., keras.Model] = _OWN_BACKBONES.get(backbone) or getattr(keras.applications, backbone)
    return application


def _build_backbone(
    application: Callable[..., keras.Model],
    input_size: int,
    data_format: DataFormat,
    weights: Path | Literal["imagenet"] | None,
) -> keras.Model:
    if isinstance(weights, Path) and not weights.is_file():
        raise UsageError(f"no weights file at {weights}")
    # An absolute path, as Keras would download weights if the file were named "imagenet".
    source = str(weights.absolute()) if isinstance(weights, Path) else weights
    try:
        with warnings.catch_warnings():
            # Keras only warns if the file lacks weights of some layers, and leaves those random.
            warnings.filterwarnings("error", message=".*retain their freshly-initialized weights")
            backbone = application(include_top=False, weights=source, input_shape=(input_size, input_size, 3))
    except (ValueError, OSError, UserWarning) as error:
        raise UsageError(
            f"cannot build {application.__name__} at {input_size} px: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:
        # Keras raises a bare Exception if a download fails.
        if weights != "imagenet":
            raise
        raise UsageError(
            f"Keras could not download the ImageNet weights of {application.__name__} ({str(error).splitlines()[0]}): "
            "use a weights file instead"
        ) from error
    return backbone if data_format == "channels_last" else _channels_first(backbone, copy_weights=weights is not None)


def _channels_first(backbone: keras.Model, *, copy_weights: bool) -> keras.Model:
    """Rebuild a backbone with the channel axis first.

    Keras' DenseNet function refuses that layout, although its layers support it and its weights are the same. Random
    weights are not copied, as Keras' OpenVINO backend takes long to return each value.
    """

    def relayout(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.InputLayer):
            side, _, channels = layer.batch_shape[1:]
            return keras.Input((channels, side, side), name=layer.name)._keras_history.operation
        if "data_format" in config:
            config["data_format"] = "channels_first"
        if config.get("axis") in (3, -1):
            config["axis"] = 1
        return layer.__class__.from_config(config)

    side, _, channels = backbone.input_shape[1:]
    try:
        clone = keras.models.clone_model(
            backbone, input_tensors=keras.Input((channels, side, side)), clone_function=relayout
        )
        if copy_weights:
            clone.set_weights(backbone.get_weights())
    # Each Keras backend raises its own exceptions for shapes that do not fit.
    except Exception as error:
        raise UsageError(f"{backbone.name} cannot be laid out channels first") from error
    return clone
