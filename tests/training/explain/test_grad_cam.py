"""Grad-CAM on a small DenseNet with random weights, against finite differences and the NumPy oracle."""

from typing import Any

import keras
import numpy as np
import pytest

from tests.xray.network.cam_oracle import HeadWeights, head_forward
from training.explain.grad_cam import GradCam
from xray.network.builder import backbone_of


def logit_when_disturbed(network: keras.Model, name: str, disturbance: np.ndarray, image: np.ndarray) -> float:
    """Return the logit with something added to one layer's output; no gradient is involved."""

    def call(layer: keras.layers.Layer, *arguments: Any, **named: Any) -> Any:
        found = layer(*arguments, **named)
        return found + disturbance if layer.name == name else found

    disturbed = keras.models.clone_model(backbone_of(network), call_function=call, clone_function=lambda layer: layer)
    scaled = np.repeat(image[None, ..., None], 3, axis=-1).astype(np.float32) / 255
    return float(network.get_layer("head")(disturbed(scaled, training=False))[0][0])


def test_grad_cam_at_the_feature_map_is_the_networks_own_map_divided_by_its_cells(
    network: keras.Model, squares: np.ndarray
) -> None:
    outputs = GradCam(network, ["relu"]).explain(squares[0])
    logits, cams = network(squares[:1], training=False)
    np.testing.assert_allclose(outputs.grad_cams[0] * 16, outputs.cam, rtol=1e-5, atol=1e-5 * np.abs(outputs.cam).max())
    np.testing.assert_allclose(outputs.cam, cams[0], rtol=1e-4, atol=1e-5)
    head = network.get_layer("head")
    weights = HeadWeights(tuple(k.numpy() for k in head.kernels), tuple(b.numpy() for b in head.biases))  # type: ignore[arg-type]
    oracle_logits, oracle_cams, _ = head_forward(outputs.activations[0][None], weights)
    np.testing.assert_allclose(outputs.grad_cams[0], oracle_cams[0] / 16, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([outputs.logit, logits[0]], oracle_logits[0], rtol=1e-4)


@pytest.mark.parametrize("name", ["conv1_conv", "conv2_block1_0_relu", "pool3_relu", "conv4_block1_2_conv"])
def test_grad_cam_weighs_channels_by_the_logits_derivative_through_every_skip_connection(
    network: keras.Model, squares: np.ndarray, name: str
) -> None:
    outputs = GradCam(network, [name]).explain(squares[0])
    activation = outputs.activations[0]
    height, width, channels = activation.shape
    step = 1e-3 * float(activation.std())
    slopes = np.zeros(channels)
    # A channel that is zero everywhere adds nothing to the map.
    tried = np.flatnonzero(activation.any(axis=(0, 1)))[:: max(1, channels // 6)]
    for channel in tried:
        disturbance = np.zeros(channels, np.float32)
        disturbance[channel] = step
        up, down = (
            logit_when_disturbed(network, name, sign * disturbance[None, None, None], squares[0]) for sign in (1, -1)
        )
        slopes[channel] = (up - down) / (2 * step) / (height * width)
    # The map is linear in the activation, so least squares recovers the weights of its channels.
    alpha = np.linalg.lstsq(activation.reshape(-1, channels), outputs.grad_cams[0].ravel(), rcond=None)[0]
    assert len(tried) > 2
    np.testing.assert_allclose(alpha[tried], slopes[tried], rtol=0.1, atol=0.1 * np.abs(slopes).max())
