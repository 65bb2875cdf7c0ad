"""A finer map: the head's attention to it, and a CAM that still explains the logit exactly."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tests.tiny import TOLERANCE, some_images, write_quantized_package, write_tiny_package
from tests.xray.network.cam_oracle import HeadWeights, attended_forward
from xray.errors import UsageError
from xray.network.builder import backbone_of, build_network, feature_map_outputs, head_inputs
from xray.network.card import FeaturePyramid
from xray.network.keras_engine import KerasEngine
from xray.network.openvino_engine import OpenVINOEngine
from xray.network.openvino_graph import GRAPH_FILE, read_network
from xray.network.package import ModelPackage
from xray.vocabulary import Precision

SIZE = 96
LAYERS = {"EfficientNetLite2": "block14_add", "MobileNet": "conv_pw_11_relu", "DenseNet121": "pool4_conv"}


def network_with_finer_map(backbone: str, data_format: str = "channels_last") -> keras.Model:
    """Return a network whose weights are large enough that its logits differ between images."""
    keras.utils.set_random_seed(1)
    network = build_network(backbone, SIZE, (8, 4), FeaturePyramid(LAYERS[backbone], 16), data_format=data_format)
    rng = np.random.default_rng(0)
    head = network.get_layer("head")
    for variable in head.weights:
        variable.assign(rng.normal(0.5, 1.0, variable.shape))
    for layer in network.get_layer("pyramid").layers:
        layer.set_weights([rng.normal(0.0, 1.0, each.shape) for each in layer.get_weights()])
    return network


def feature_maps() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a last feature map of MobileNet for three images, and a finer map."""
    rng = np.random.default_rng(2)
    return rng.gamma(1.0, 1.0, (3, 3, 3, 1024)).astype(np.float32), rng.gamma(1.0, 1.0, (3, 6, 6, 16)).astype(
        np.float32
    )


def images() -> NDArray[np.uint8]:
    """Return three noisy images."""
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), np.uint8)


@pytest.mark.parametrize("backbone", LAYERS)
def test_the_cam_of_a_finer_map_has_twice_the_cells_and_the_same_weights_in_both_layouts(backbone: str) -> None:
    last, first = network_with_finer_map(backbone), network_with_finer_map(backbone, "channels_first")
    assert last.outputs[1].shape == first.outputs[1].shape == (None, 6, 6)
    assert backbone_of(last).output.shape[1:3] == (3, 3)
    assert [variable.shape for variable in first.weights] == [variable.shape for variable in last.weights]


def test_the_head_agrees_with_the_numpy_oracle_and_the_mean_of_its_cam_and_its_bias_are_the_logit() -> None:
    network = network_with_finer_map("MobileNet")
    head = network.get_layer("head")
    coarse, fine = feature_maps()
    kernels, biases = (tuple(each.numpy() for each in some) for some in (head.kernels, head.biases))
    logits, cams, bias = attended_forward(
        coarse,
        fine,
        head.attention_kernel.numpy(),
        HeadWeights(kernels, biases),  # type: ignore[arg-type]
    )
    found_logits, found_cams = (each.numpy() for each in head(coarse, fine))
    scale = np.abs(logits).max()
    assert scale > 1
    assert np.ptp(logits) > 0.01 * scale
    np.testing.assert_allclose(found_logits, logits, atol=1e-5 * scale)
    np.testing.assert_allclose(found_cams, cams, atol=1e-5 * np.abs(cams).max())
    np.testing.assert_allclose(found_cams.mean(axis=(1, 2)) + bias, found_logits, atol=1e-5 * scale)


def test_with_the_attention_held_fixed_the_cam_is_the_gradient_times_both_feature_maps() -> None:
    network = network_with_finer_map("MobileNet")
    head = network.get_layer("head")
    coarse, fine = map(tf.constant, feature_maps())
    cells = tf.squeeze(fine @ head.attention_kernel, -1)
    attention = tf.reshape(tf.nn.softmax(tf.reshape(cells, (3, -1))), cells.shape)[..., None]
    with tf.GradientTape() as tape:
        repeated = tf.repeat(tf.repeat(coarse, 2, axis=1), 2, axis=2)
        tape.watch((fine, repeated))
        means = [tf.reduce_mean(repeated, (1, 2)), *(tf.reduce_sum(m * attention, (1, 2)) for m in (fine, repeated))]
        hidden = tf.nn.relu(tf.concat(means, axis=-1) @ head.kernels[0] + head.biases[0])
        hidden = tf.nn.relu(hidden @ head.kernels[1] + head.biases[1])
        logits = hidden @ head.kernels[2] + head.biases[2]
    by_fine, by_repeated = tape.gradient(logits, (fine, repeated))
    cells = fine.shape[1] * fine.shape[2]
    expected = cells * tf.reduce_sum(by_fine * fine, -1) + cells * tf.reduce_sum(by_repeated * repeated, -1)
    _, cams = head(coarse, fine)
    assert cells == 36
    np.testing.assert_allclose(cams, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_the_parts_of_a_network_give_what_the_whole_gives() -> None:
    network = network_with_finer_map("MobileNet")
    before = network.operations[network.operations.index(network.get_layer("mobilenet_1.00_96")) - 1]
    scaled = keras.Model(network.input, before.output)(images())
    maps = keras.Model(backbone_of(network).input, feature_map_outputs(network))(scaled, training=False)
    parts = network.get_layer("head")(*head_inputs(network, maps))
    for part, whole in zip(parts, network(images(), training=False), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-4 * float(np.abs(whole).max()))


def test_a_layer_that_the_backbone_lacks_is_named() -> None:
    with pytest.raises(UsageError, match="no layer named 'conv_pw_99'"):
        build_network("MobileNet", SIZE, (8, 4), FeaturePyramid("conv_pw_99", 16))


def test_a_layer_whose_cells_do_not_divide_into_those_of_the_last_map_is_refused() -> None:
    with pytest.raises(UsageError, match="no multiple of"):
        build_network("MobileNet", 72, (8, 4), FeaturePyramid("conv_pw_5_relu", 16))


def test_a_layer_that_gives_no_map_is_refused() -> None:
    with pytest.raises(UsageError, match="block4a_se_squeeze gives no feature map"):
        build_network("EfficientNetV2B0", SIZE, (8, 4), FeaturePyramid("block4a_se_squeeze", 16))


def test_efficientnet_lite_has_no_weights_to_download(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a file with --weights"):
        build_network("EfficientNetLite2", 64, (8, 4), backbone_weights="imagenet")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """A tiny package with a finer map, in every precision."""
    folder = tmp_path_factory.mktemp("finer")
    return write_quantized_package(folder / "quantized", write_tiny_package(folder / "tiny", finer_map=True))


def test_engines_agree_on_a_finer_map(package: ModelPackage) -> None:
    assert package.golden().cams.shape[1:] == (4, 4)
    engines = [OpenVINOEngine(read_network(package, package.path / GRAPH_FILE, Precision.FP32)), KerasEngine(package)]
    one, other = (engine.infer(some_images(9)) for engine in engines)
    one.check_agrees(other, 1e-3)
    assert np.ptp(one.cams, axis=(1, 2)).min() > 0


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.INT8])
def test_the_cam_of_a_finer_map_explains_the_logit_in_lower_precisions_too(
    package: ModelPackage, precision: Precision
) -> None:
    full, low = (
        OpenVINOEngine(read_network(package, package.path / GRAPH_FILE, each), each).infer(some_images(32))
        for each in (Precision.FP32, precision)
    )
    low.check_agrees(full, TOLERANCE)
    assert not np.array_equal(low.logits, full.logits)
    # The head's effective bias depends on its ReLU masks alone, so it is the same wherever these are.
    bias = low.logits - low.cams.mean(axis=(1, 2))
    expected = full.logits - full.cams.mean(axis=(1, 2))
    assert np.isclose(bias, expected, atol=1e-4).mean() > 0.8
