"""Grad-CAM at any layer of a network, from the gradient of its logit."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from xray.errors import UsageError
from xray.network import backbone_of


@dataclass(frozen=True)
class Sight:
    """What the network makes of one radiograph, at the layers asked for.

    Attributes
    ----------
    logit : float
        Before calibration.
    cam : ndarray of float32, (h, w)
        The network's own class activation map, signed, in units of the logit.
    activations : tuple of ndarray of float32, each (height, width, channels)
        The layers' outputs; after a ReLU they are not negative.
    grad_cams : tuple of ndarray of float32, each (height, width)
        Signed Grad-CAM at the layers; see :func:`grad_cam`.
    """

    logit: float
    cam: NDArray[np.float32]
    activations: tuple[NDArray[np.float32], ...]
    grad_cams: tuple[NDArray[np.float32], ...]


def grad_cam(activation: NDArray[np.floating], gradient: NDArray[np.floating]) -> NDArray[np.float32]:
    r"""Compute Grad-CAM [1]_ before its ReLU.

    .. math:: \alpha_k = \frac{1}{hw} \sum_{ij} \frac{\partial y}{\partial A_{ijk}}, \qquad
       \mathrm{cam}_{ij} = \sum_k \alpha_k A_{ijk}

    with the logit :math:`y`. At the feature map it is the network's own map divided by :math:`hw`. What is negative
    speaks against the finding; the paper's ReLU, which hides it, is left to the drawing.

    Parameters
    ----------
    activation : ndarray of float, (h, w, C)
        A layer's output :math:`A`.
    gradient : ndarray of float, (h, w, C)
        The logit's derivative by it.

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


class Probe:
    """A network opened at some of its layers.

    Parameters
    ----------
    network : keras.Model
        From :func:`xray.network.build_network`, channels last; its weights are shared, not copied.
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
                f"layers takes gradients with TensorFlow and Keras runs on {keras.backend.backend()}: "
                "set KERAS_BACKEND=tensorflow"
            )
        backbone = backbone_of(network)
        before = network.operations[network.operations.index(backbone) - 1]
        self._scale = keras.Model(network.input, before.output)
        outputs = [backbone.get_layer(name).output for name in names]
        self._backbone = keras.Model(backbone.input, [*outputs, backbone.output])
        self._head = network.get_layer("head")

    def look(self, image: NDArray[np.uint8]) -> Sight:
        """Run the network forward and back.

        Parameters
        ----------
        image : ndarray of uint8, (size, size)
            A preprocessed radiograph.
        """
        import tensorflow as tf

        scaled = self._scale(image[None], training=False)
        with tf.GradientTape() as tape:
            # Without it there would be no path to layers before the first weight.
            tape.watch(scaled)
            *activations, feature_map = self._backbone(scaled, training=False)
            logits, cams = self._head(feature_map)
        gradients = tape.gradient(logits, activations)
        seen = tuple(activation[0].numpy() for activation in activations)
        maps = tuple(
            grad_cam(activation, gradient[0].numpy()) for activation, gradient in zip(seen, gradients, strict=True)
        )
        return Sight(float(logits[0]), cams[0].numpy(), seen, maps)
