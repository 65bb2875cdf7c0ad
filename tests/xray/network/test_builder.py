"""The network and its CAM, compared with TensorFlow's gradients and the NumPy oracle."""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tests.xray.network.cam_oracle import HeadWeights, attended_forward, head_forward
from xray.errors import UsageError
from xray.network.builder import backbone_function, backbone_names, build_network, load_network
from xray.network.package import ModelPackage


class SplitNetwork:
    """A package's network, split before its head and run once on the golden images."""

    def __init__(self, package: ModelPackage) -> None:
        self.network = load_network(package)
        self.head = self.network.get_layer("head")
        self.images = package.golden().images
        maps = keras.Model(self.network.input, self.head.input)(self.images, training=False)
        self.maps: list[NDArray[Any]] = [each.numpy() for each in (maps if isinstance(maps, list) else [maps])]
        self.logits, self.cams = (each.numpy() for each in self.head(*self.maps))

    def oracle(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        kernels = tuple(kernel.numpy() for kernel in self.head.kernels)
        biases = tuple(bias.numpy() for bias in self.head.biases)
        weights = HeadWeights(kernels, biases)  # type: ignore[arg-type]
        if len(self.maps) == 1:
            return head_forward(self.maps[0], weights)
        return attended_forward(*self.maps, self.head.attention_kernel.numpy(), weights)


@pytest.fixture(scope="module")
def shipped(shipped_package: ModelPackage) -> SplitNetwork:
    return SplitNetwork(shipped_package)


def test_without_a_finer_map_the_cam_is_h_times_w_grad_cam_before_its_relu(tiny_package: ModelPackage) -> None:
    tiny = SplitNetwork(tiny_package)
    feature_map = tf.constant(tiny.maps[0])
    with tf.GradientTape() as tape:
        tape.watch(feature_map)
        logits, cams = tiny.head(feature_map)
    gradient = tape.gradient(logits, feature_map).numpy()
    grad_cams = np.einsum("nhwc,nc->nhw", tiny.maps[0], gradient.mean(axis=(1, 2)))
    _, h, w = cams.shape
    assert h * w > 1
    assert np.abs(grad_cams).max() > 0
    np.testing.assert_allclose(cams, h * w * grad_cams, rtol=1e-4, atol=1e-4 * float(np.abs(cams).max()))


def test_the_shipped_cam_is_finer_than_the_last_feature_map_and_has_both_signs(shipped: SplitNetwork) -> None:
    last, finer = shipped.maps
    assert shipped.cams.shape[1:] == finer.shape[1:3] == (28, 28)
    assert last.shape[1:3] == (14, 14)
    assert shipped.cams.min() < 0 < shipped.cams.max()


def test_the_mean_of_the_shipped_cam_and_the_effective_bias_are_the_logit(shipped: SplitNetwork) -> None:
    _, _, effective_bias = shipped.oracle()
    np.testing.assert_allclose(shipped.cams.mean(axis=(1, 2)) + effective_bias, shipped.logits, atol=1e-4)


def test_the_shipped_head_agrees_with_the_numpy_oracle(shipped: SplitNetwork) -> None:
    logits, cams, _ = shipped.oracle()
    np.testing.assert_allclose(shipped.logits, logits, atol=1e-4)
    np.testing.assert_allclose(shipped.cams, cams, atol=1e-4 * np.abs(cams).max())


def test_the_whole_network_gives_what_its_parts_give(shipped: SplitNetwork) -> None:
    logits, cams, _ = shipped.network(shipped.images, training=False)
    np.testing.assert_allclose(logits, shipped.logits, atol=1e-4)
    np.testing.assert_allclose(cams, shipped.cams, atol=1e-4 * np.abs(shipped.cams).max())


def test_head_and_cam_stay_float32_in_a_half_precision_network() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        network = build_network("MobileNet", 32, (8, 4))
    finally:
        keras.config.set_dtype_policy("float32")
    assert network.get_layer("head").compute_dtype == "float32"
    assert [keras.backend.standardize_dtype(output.dtype) for output in network.outputs] == ["float32", "float32"]


@pytest.mark.parametrize("backbone", ["DenseNet121", "MobileNet", "ResNet50", "VGG16"])
def test_a_backbone_channels_first_has_the_same_weights_and_outputs_of_the_same_shape(backbone: str) -> None:
    last = build_network(backbone, 64, (8, 4))
    first = build_network(backbone, 64, (8, 4), data_format="channels_first")
    assert [variable.shape for variable in first.weights] == [variable.shape for variable in last.weights]
    assert [output.shape for output in first.outputs] == [output.shape for output in last.outputs]


def test_the_shipped_weights_give_the_golden_outputs_channels_first_too(shipped_package: ModelPackage) -> None:
    golden = shipped_package.golden()
    logits, cams, distances = load_network(shipped_package, data_format="channels_first")(golden.images, training=False)
    np.testing.assert_allclose(logits, golden.logits, atol=1e-3)
    np.testing.assert_allclose(cams, golden.cams, atol=1e-3 * np.abs(golden.cams).max())
    np.testing.assert_allclose(distances, golden.distances, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("DenseNet121", "densenet"),
        ("MobileNet", "mobilenet"),
        ("MobileNetV3Small", "mobilenet_v3"),
        ("ResNet50V2", "resnet_v2"),
        ("VGG16", "vgg16"),
    ],
)
def test_gray_bytes_go_through_the_backbones_own_preprocessing(name: str, module: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
    network = build_network(name, 32, (8, 4))
    backbone = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    rgb = np.repeat(images[..., None], 3, axis=-1).astype(np.float32)
    expected = backbone(getattr(keras.applications, module).preprocess_input(rgb), training=False)
    found = keras.Model(network.input, network.get_layer("head").input)(images, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_every_backbone_that_an_error_lists_exists() -> None:
    assert len(backbone_names()) > 30
    for name in backbone_names():
        application = backbone_function(name)
        assert application.__name__ == name
        assert callable(sys.modules[application.__module__].preprocess_input)


@pytest.mark.parametrize("name", [f"EfficientNetB{number}" for number in range(8)])
def test_a_backbone_whose_scaling_depends_on_where_weights_come_from_is_refused(name: str) -> None:
    assert name not in backbone_names()
    with pytest.raises(UsageError, match=f"{name} cannot be a backbone: Keras scales its input"):
        build_network(name, 64, (8, 4))


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "ConvNeXtTiny"])
def test_a_backbone_that_cannot_be_laid_out_channels_first_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be laid out channels first"):
        build_network(name, 64, (8, 4), data_format="channels_first")


def test_a_weights_file_named_imagenet_is_read_and_nothing_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").write_bytes(b"not weights")
    with pytest.raises(UsageError, match="cannot build MobileNet at 64 px"):
        build_network("MobileNet", 64, (8, 4), backbone_weights=Path("imagenet"))


def test_an_unknown_backbone_is_refused_with_the_names_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"no backbone named 'DenseNet999'; one of: .*DenseNet121"):
        build_network("DenseNet999", 224, (8, 4))


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no weights file at .*nowhere\.h5"):
        build_network("MobileNet", 64, (8, 4), backbone_weights=tmp_path / "nowhere.h5")


# Keras 3.15 saves weights through an interface that NumPy 2 wants changed.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(64, 64, 3)).save_weights(
        tmp_path / "v2.weights.h5"
    )
    with pytest.raises(UsageError, match="cannot build MobileNet"):
        build_network("MobileNet", 64, (8, 4), backbone_weights=tmp_path / "v2.weights.h5")


def test_an_input_too_small_for_the_backbone_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot build DenseNet121 at 8 px"):
        build_network("DenseNet121", 8, (8, 4))
