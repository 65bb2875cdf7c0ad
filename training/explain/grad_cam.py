"""Grad-CAM at any layer of a network: where the layer's output raises or lowers the logit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from training.explain.input_images import InputImage
from training.explain.layers import BackboneLayer, Channels, LayerKind, most_active_channels
from xray.errors import UsageError
from xray.network.builder import backbone_of, feature_map_outputs, head_inputs, scaling_of
from xray.network.card import Card


@dataclass(frozen=True)
class LayerActivations:
    """Outputs of a network for one image, and of some of its layers.

    Attributes
    ----------
    logit : float
        Before calibration.
    cam : ndarray of float32, (h, w)
        The network's own class activation map, signed, in units of the logit.
    activations : tuple of ndarray of float32, each (height, width, channels)
        Outputs of the layers; not negative after a ReLU.
    grad_cams : tuple of ndarray of float32, each (height, width)
        Signed Grad-CAM at the layers; see :func:`grad_cam`.
    """

    logit: float
    cam: NDArray[np.float32]
    activations: tuple[NDArray[np.float32], ...]
    grad_cams: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class LayerExplanation:
    """One layer's part in the prediction for one image.

    Attributes
    ----------
    layer : BackboneLayer
        The layer.
    grad_cam : ndarray of float32, (h, w)
        Signed; see :func:`training.explain.grad_cam.grad_cam`.
    channels : Channels
        Its most active channels.
    """

    layer: BackboneLayer
    grad_cam: NDArray[np.float32]
    channels: Channels


@dataclass(frozen=True)
class ImageExplanation:
    """The prediction for one image, with the layers that it came from.

    Attributes
    ----------
    image : InputImage
        The radiograph.
    logit : float
        Before calibration.
    probability : float
        Calibrated, in [0, 1].
    cam : ndarray of float32, (h, w)
        The network's own class activation map, signed, in units of the logit.
    layers : tuple of LayerExplanation
        From input to output.
    """

    image: InputImage
    logit: float
    probability: float
    cam: NDArray[np.float32]
    layers: tuple[LayerExplanation, ...]


def grad_cam(activation: NDArray[np.floating], gradient: NDArray[np.floating]) -> NDArray[np.float32]:
    r"""Compute Grad-CAM [1]_ before its ReLU.

    .. math:: \alpha_k = \frac{1}{hw} \sum_{ij} \frac{\partial y}{\partial A_{ijk}}, \qquad
       \mathrm{cam}_{ij} = \sum_k \alpha_k A_{ijk}

    with the logit :math:`y`. At the feature map it is the network's own map divided by :math:`hw`, unless that is of a
    finer one. Negative values lower the logit; the paper's ReLU, which hides them, is applied where the map is drawn.

    Parameters
    ----------
    activation : ndarray of float, (h, w, C)
        Output :math:`A` of a layer.
    gradient : ndarray of float, (h, w, C)
        Derivative of the logit with respect to it.

    Returns
    -------
    ndarray of float32, (h, w)
        Signed, in units of the logit.

    References
    ----------
    .. [1] Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
       ICCV 2017, arXiv:1610.02391.
    """
    alpha = gradient.mean(axis=(0, 1), dtype=np.float64)
    return np.asarray(activation @ alpha, np.float32)


class GradCam:
    """A network that also returns the outputs and the Grad-CAM of some of its layers.

    Parameters
    ----------
    network : keras.Model
        From :func:`xray.network.builder.build_network`, channels last; its weights are shared, not copied.
    names : sequence of str
        Names of layers of its backbone.

    Raises
    ------
    UsageError
        If Keras does not run on TensorFlow, whose gradient tape is used.
    """

    def __init__(self, network: keras.Model, names: Sequence[str]) -> None:
        if keras.backend.backend() != "tensorflow":
            raise UsageError(
                f"layers computes gradients with TensorFlow, and Keras runs on {keras.backend.backend()}: "
                "set KERAS_BACKEND=tensorflow"
            )
        backbone = backbone_of(network)
        self._scale = scaling_of(network)
        outputs = [backbone.get_layer(name).output for name in names]
        self._backbone = keras.Model(backbone.input, [*outputs, *feature_map_outputs(network)])
        self._layers, self._network = len(outputs), network

    def explain(self, square: NDArray[np.uint8]) -> LayerActivations:
        """Run the network forward and backward.

        Parameters
        ----------
        square : ndarray of uint8, (size, size)
            A preprocessed radiograph.
        """
        import tensorflow as tf

        scaled = self._scale(square[None], training=False)
        with tf.GradientTape() as tape:
            # Without it the tape would not record layers before the first weight.
            tape.watch(scaled)
            outputs = self._backbone(scaled, training=False)
            outputs, feature_maps = outputs[: self._layers], outputs[self._layers :]
            logits, cams = self._network.get_layer("head")(*head_inputs(self._network, feature_maps))
        gradients = tape.gradient(logits, outputs)
        activations = tuple(output[0].numpy() for output in outputs)
        maps = tuple(
            grad_cam(activation, gradient[0].numpy())
            for activation, gradient in zip(activations, gradients, strict=True)
        )
        return LayerActivations(float(logits[0]), cams[0].numpy(), activations, maps)


def explain_images(
    network: keras.Model, card: Card, images: Sequence[InputImage], layers: Sequence[BackboneLayer], count: int
) -> Iterator[ImageExplanation]:
    """Explain a network's predictions, image by image.

    Parameters
    ----------
    network : keras.Model
        The card's network with its weights.
    card : Card
        For the calibration.
    images : sequence of InputImage
        The radiographs.
    layers : sequence of BackboneLayer
        The layers to explain them at.
    count : int
        Number of channels to keep of each layer.

    Raises
    ------
    UsageError
        If Keras does not run on TensorFlow.
    """
    explainer = GradCam(network, [layer.name for layer in layers])
    for image in images:
        outputs = explainer.explain(image.square)
        explained = tuple(
            LayerExplanation(layer, cam, most_active_channels(activation, count, image.image_box, card.input_size))
            for layer, cam, activation in zip(layers, outputs.grad_cams, outputs.activations, strict=True)
        )
        yield ImageExplanation(image, outputs.logit, float(card.probability(outputs.logit)), outputs.cam, explained)


def has_fixed_scale(layer: BackboneLayer, card: Card) -> bool:
    """Tell whether the card's scale applies to Grad-CAM at a layer: where it is the network's own map, divided."""
    return layer.kind is LayerKind.FEATURE_MAP and card.pyramid is None


def grad_cam_scale(layer: BackboneLayer, explanations: Sequence[ImageExplanation], card: Card) -> float:
    """Return the Grad-CAM value that gets the top colour, not negative.

    At the feature map it is the card's fixed scale, as in screening, unless the network's own map is a finer one. Other
    layers have no fixed scale: there it is the largest value over the given images, so that these can be compared with
    one another.

    Parameters
    ----------
    layer : BackboneLayer
        One of the explained layers.
    explanations : sequence of ImageExplanation
        The images that are drawn together.
    card : Card
        For its ``heat_map_scale``.
    """
    if has_fixed_scale(layer, card):
        return card.heat_map_scale / (layer.height * layer.width)
    maxima = [each.grad_cam.max() for one in explanations for each in one.layers if each.layer == layer]
    return max(0.0, float(np.max(maxima)))
