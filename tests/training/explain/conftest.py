"""A small DenseNet with random weights, and images for it."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.applications.densenet import DenseNet

from tests.tiny import random_weight
from xray.network.builder import CamHead

SIZE = 128


def small_network(seed: int) -> keras.Model:
    """Build a network as build_network does, on a DenseNet of two dense layers a block."""
    rng = np.random.default_rng(seed)
    images = keras.Input((SIZE, SIZE), dtype="uint8", name="images")
    gray = ops.cast(images, "float32")
    scaled = ops.stack([gray, gray, gray], axis=-1) / 255.0
    backbone = DenseNet([2, 2, 2, 2], False, None, input_shape=(SIZE, SIZE, 3))
    network = keras.Model(images, CamHead((8, 4), name="head")(backbone(scaled)))
    for variable in network.weights:
        variable.assign(random_weight(variable.name, tuple(variable.shape), rng))
    return network


@pytest.fixture(scope="session")
def network() -> keras.Model:
    return small_network(0)


@pytest.fixture(scope="session")
def squares() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.kron(rng.integers(0, 256, (10, 8, 8), np.uint8), np.ones((1, SIZE // 8, SIZE // 8), np.uint8))
