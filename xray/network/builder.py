"""The network: a Keras application, and a head that also computes the class activation map (CAM).

Training, the Keras engine and the OpenVINO graph all use :func:`build_network`.
"""

import inspect
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from xray.errors import PackageError, UsageError
from xray.network.distance import FeatureDistance
from xray.network.package import ModelPackage, read_weights

_REFUSED_PREFIX = "EfficientNetB"

DataFormat = Literal["channels_last", "channels_first"]


@keras.saving.register_keras_serializable(package="bonescreen")
class CamHead(keras.layers.Layer):  # type: ignore[misc]
    """Global average pooling and three dense layers, with the class activation map of the logit.

    The dense layers are ReLU, ReLU and one linear unit, so the gradient of the logit by a pooled channel is a product
    of weight matrices and ReLU masks, and needs no backward pass. ``cam = sum_k (d logit / d pooled_k) A_k`` is
    ``h * w`` times Grad-CAM [1]_ before its ReLU, and its spatial mean plus the head's effective bias is the logit.

    The layer computes in float32 under every dtype policy.

    Parameters
    ----------
    units : tuple of int
        Widths of the two hidden layers.
    data_format : {"channels_last", "channels_first"}
        Layout of the input feature map.

    References
    ----------
    .. [1] Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv:1610.02391.
    """

    def __init__(self, units: tuple[int, int], data_format: DataFormat = "channels_last", **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.units = tuple(units)
        self.data_format = data_format

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Create the three kernels and biases for a feature map of this shape."""
        channels = shape[1] if self.data_format == "channels_first" else shape[-1]
        widths = (channels, *self.units, 1)
        self.kernels = [
            self.add_weight(shape=widths[i : i + 2], initializer="he_normal", name=f"kernel_{i + 1}") for i in range(3)
        ]
        self.biases = [
            self.add_weight(shape=(widths[i + 1],), initializer="zeros", name=f"bias_{i + 1}") for i in range(3)
        ]

    def call(self, feature_map: Any) -> tuple[Any, Any]:
        """Compute logits and CAMs.

        Parameters
        ----------
        feature_map : tensor, (N, h, w, C) or (N, C, h, w)
            The backbone's last feature map.

        Returns
        -------
        logits : tensor of float32, (N,)
        cams : tensor of float32, (N, h, w)
            Signed, in units of the logit.
        """
        first = self.data_format == "channels_first"
        pooled = ops.mean(feature_map, axis=(2, 3) if first else (1, 2))
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
        gradient = ops.matmul(gradient, ops.transpose(self.kernels[0]))
        gradient = gradient[:, :, None, None] if first else gradient[:, None, None, :]
        cams = ops.sum(feature_map * gradient, axis=1 if first else -1)
        return logits, cams

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of :meth:`__init__`, for Keras to make the layer again."""
        return {**super().get_config(), "units": self.units, "data_format": self.data_format}


def build_network(
    backbone: str,
    input_size: int,
    head: tuple[int, int],
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
        If the backbone or the weights file does not exist, the weights cannot be downloaded, or the backbone cannot be
        built in this size or layout.
    """
    application = backbone_function(backbone)
    images, scaled = network_input(backbone, input_size, data_format=data_format)
    feature_map = _build_backbone(application, input_size, data_format, backbone_weights)(scaled)
    outputs = CamHead(head, data_format, name="head")(feature_map)
    if components is not None:
        outputs = (*outputs, FeatureDistance(components, data_format, name="distance")(feature_map))
    return keras.Model(images, outputs, name="bonescreen")


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
    """Return the Keras application inside a network from :func:`build_network`."""
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
        network = build_network(
            card.backbone, card.input_size, card.head, components=card.components, data_format=data_format
        )
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
        for name, value in vars(keras.applications).items()
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
    application: Callable[..., keras.Model] = getattr(keras.applications, backbone)
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
