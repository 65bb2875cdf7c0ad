"""Precisions: which a machine gets, what a package allows, and how near each is to float32."""

import dataclasses
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from tests.tiny import some_images, stored_weights
from tests.xray.network.distance_oracle import distance_of
from training.fit.quantize import choose_range
from xray.errors import PackageError, UsageError
from xray.network.int8 import (
    INT8_FILE,
    LayerQuantization,
    convolutions,
    kernel_of,
    quantization_bytes,
    quantize_graph,
    read_quantization,
)
from xray.network.open_engine import open_engine
from xray.network.openvino_graph import read_graph, read_network
from xray.network.package import ModelPackage
from xray.network.precision import choose_precision, computable_precisions, cpu_flags, fast_precisions
from xray.vocabulary import Precision

FP32, BF16, INT8 = Precision
AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}


@pytest.mark.parametrize(
    ("flags", "fast", "computable"),
    [
        (set(), (FP32,), {FP32}),
        ({"avx2", "avx_vnni"}, (INT8, FP32), {INT8, FP32}),
        (AVX512, (FP32,), {FP32, BF16}),
        (AVX512 | {"avx512_vnni"}, (INT8, FP32), {INT8, FP32, BF16}),
        (AVX512 | {"avx512_vnni", "avx512_bf16"}, (INT8, BF16, FP32), {INT8, BF16, FP32}),
        (AVX512 | {"avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"}, (BF16, INT8, FP32), {INT8, BF16, FP32}),
    ],
)
def test_a_cpu_gets_the_precisions_that_it_has_instructions_for(
    flags: set[str], fast: tuple[Precision, ...], computable: set[Precision]
) -> None:
    assert fast_precisions(flags) == fast
    assert computable_precisions(flags) == computable


def test_this_cpu_has_flags_on_linux() -> None:
    assert "sse2" in cpu_flags()


def test_auto_takes_the_fastest_precision_that_the_package_allows(
    tiny_package: ModelPackage, quantized_package: ModelPackage
) -> None:
    assert choose_precision(quantized_package, "auto", (BF16, INT8, FP32)) is BF16
    assert choose_precision(quantized_package, "auto", (FP32,)) is FP32
    assert choose_precision(tiny_package, "auto", (BF16, INT8, FP32)) is FP32
    assert choose_precision(quantized_package, "fp32", (BF16, INT8, FP32)) is FP32


def test_a_precision_that_the_package_does_not_allow_is_refused_with_those_that_it_allows(
    tiny_package: ModelPackage, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="BONESCREEN_PRECISION=int8: tiny 1 allows fp32; choose one of them, or auto"):
        choose_precision(tiny_package, "int8", (INT8,))
    with pytest.raises(PackageError, match="tiny 1 does not allow int8"):
        open_engine(tiny_package, "openvino", tmp_path, INT8)


@pytest.mark.parametrize("precision", sorted(computable_precisions(cpu_flags())))
def test_each_precision_gives_nearly_the_logits_and_cams_of_float32(
    quantized_package: ModelPackage, tmp_path: Path, precision: Precision
) -> None:
    images = some_images(40)[32:]
    exact = open_engine(quantized_package, "openvino", tmp_path).infer(images)
    engine = open_engine(quantized_package, "openvino", tmp_path, precision)
    found = engine.infer(images)
    assert engine.precision == precision
    assert np.corrcoef(exact.logits, found.logits)[0, 1] > 0.98
    assert np.abs(exact.cams - found.cams).max() < 0.2 * np.abs(exact.cams).max()


@pytest.mark.parametrize("precision", [BF16, INT8])
def test_lower_precisions_are_really_computed(
    quantized_package: ModelPackage, tmp_path: Path, precision: Precision
) -> None:
    images = some_images(8)
    exact = open_engine(quantized_package, "openvino", tmp_path).infer(images)
    found = open_engine(quantized_package, "openvino", tmp_path, precision).infer(images)
    assert np.abs(exact.logits - found.logits).max() > 1e-5


@pytest.mark.parametrize("precision", sorted(computable_precisions(cpu_flags())))
def test_logit_cam_and_distance_are_computed_in_float32_from_one_feature_map_in_each_precision(
    quantized_package: ModelPackage, graph_cache: Path, tmp_path: Path, precision: Precision
) -> None:
    # The cam's mean and the effective bias give the logit only if both are of the same feature map, in float32.
    size = quantized_package.card.input_size
    images = some_images(6)
    found = open_engine(quantized_package, "openvino", tmp_path, precision).infer(images)
    weights = stored_weights(quantized_package)
    (kernel_1, kernel_2, kernel_3), (bias_1, bias_2, bias_3) = weights[-11:-8], weights[-8:-5]
    model = read_network(quantized_package, quantized_package.path / "network.xml", precision)
    pooling = next(node for node in reversed(model.get_ordered_ops()) if node.get_type_name() == "ReduceMean")
    model.add_outputs([pooling.output(0)])
    model.reshape([1, size, size])
    hint = "bf16" if precision is BF16 else "f32"
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    assert found.distances is not None
    for image, logit, cam, distance in zip(images, found.logits, found.cams, found.distances, strict=True):
        pooled = compiled(image[None])[3][0]
        assert distance_of(pooled, *weights[-5:]) == pytest.approx(distance, abs=1e-4)
        hidden_1 = pooled @ kernel_1 + bias_1
        hidden_2 = np.maximum(hidden_1, 0) @ kernel_2 + bias_2
        effective = ((hidden_2 > 0) * kernel_3[:, 0]) @ bias_2 + bias_3[0]
        effective += (((hidden_2 > 0) * kernel_3[:, 0]) @ kernel_2.T * (hidden_1 > 0)) @ bias_1
        assert cam.mean() + effective == pytest.approx(logit, abs=1e-4)


def test_a_quantization_is_read_back_as_it_was_written(quantized_package: ModelPackage, tmp_path: Path) -> None:
    found = read_quantization(quantized_package.path / INT8_FILE)
    (tmp_path / "again.npz").write_bytes(quantization_bytes(found))
    again = read_quantization(tmp_path / "again.npz")
    assert found.keys() == again.keys()
    for name, layer in found.items():
        assert (layer.low, layer.high) == (again[name].low, again[name].high)
        np.testing.assert_array_equal(layer.scale, again[name].scale)
        np.testing.assert_array_equal(layer.bias, again[name].bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 2.0, "high": 1.0}, "out of range"),
        ({"scale": np.zeros(3, np.float32)}, "out of range"),
        ({"bias": np.array([np.nan], np.float32)}, "out of range"),
    ],
)
def test_a_quantization_out_of_range_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    layer = LayerQuantization(0.0, 1.0, np.ones(3, np.float32), np.zeros(1, np.float32))
    changed = dataclasses.replace(layer, **change)  # type: ignore[arg-type]
    (tmp_path / INT8_FILE).write_bytes(quantization_bytes({"a": changed}))
    with pytest.raises(PackageError, match=message):
        read_quantization(tmp_path / INT8_FILE)


def test_a_damaged_quantization_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / INT8_FILE).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(PackageError, match=r"int8\.npz is not a readable quantization"):
        read_quantization(tmp_path / INT8_FILE)


def test_a_quantization_of_another_graph_is_refused(quantized_package: ModelPackage) -> None:
    model = read_graph(quantized_package.path / "network.xml", quantized_package.weights_path)
    first = convolutions(model)[0]
    kernels, channels = kernel_of(first).shape[:2]
    fitting = LayerQuantization(0.0, 1.0, np.ones(channels, np.float32), np.zeros(kernels, np.float32))
    with pytest.raises(PackageError, match="names nothing, which is no convolution"):
        quantize_graph(model, {"nothing": fitting})
    narrow = dataclasses.replace(fitting, bias=np.zeros(kernels + 1, np.float32))
    with pytest.raises(PackageError, match="do not fit its kernel"):
        quantize_graph(model, {first.get_friendly_name(): narrow})


def test_a_range_leaves_out_a_single_far_value_but_not_the_rest() -> None:
    values = np.append(np.linspace(0, 1, 1_000_000, dtype=np.float32), np.float32(1.2))
    low, high = choose_range(values)
    assert low == 0
    assert high == pytest.approx(1, abs=0.03)


def test_the_graph_of_the_shipped_model_transposes_no_feature_map_but_to_make_the_small_one_larger(
    shipped_package: ModelPackage, graph_cache: Path
) -> None:
    model = read_graph(shipped_package.path / "network.xml", shipped_package.weights_path)
    inputs = [node.input_value(0) for node in model.get_ordered_ops() if node.get_type_name() == "Transpose"]
    moved = [each for each in inputs if each.get_node().get_type_name() != "Constant"]
    assert len(moved) < len(inputs)
    # Keras repeats the cells of the small map channels last.
    assert [each.get_partial_shape().to_string() for each in moved] == ["[?,128,14,14]", "[?,28,28,128]"]


@pytest.mark.parametrize("precision", [BF16, INT8])
def test_head_and_cam_of_the_shipped_model_are_computed_in_float32(
    shipped_package: ModelPackage, precision: Precision
) -> None:
    model = read_network(shipped_package, shipped_package.path / "network.xml", precision)
    size = shipped_package.card.input_size
    model.reshape([1, size, size])
    hint = "bf16" if precision is BF16 else "f32"
    runtime = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint}).get_runtime_model()
    information = [node.get_rt_info() for node in runtime.get_ordered_ops()]
    kinds = [(each["layerType"].value, each["runtimePrecision"].value) for each in information]
    last_convolution = max(place for place, (kind, _) in enumerate(kinds) if kind == "Convolution")
    products = [precision for kind, precision in kinds[last_convolution:] if kind in ("FullyConnected", "Reduce")]
    assert products
    assert set(products) == {"f32"}
    # Those of one channel each stay as they are in INT8.
    convolved = {
        each["runtimePrecision"].value
        for each in information
        if each["layerType"].value == "Convolution" and "_dw_" not in each["primitiveType"].value
    }
    assert convolved <= ({"bf16"} if precision is BF16 else {"u8", "i8"})


def test_the_keras_engine_computes_bfloat16_too_and_no_int8(quantized_package: ModelPackage, tmp_path: Path) -> None:
    images = some_images(20)
    exact = open_engine(quantized_package, "keras", tmp_path).infer(images)
    found = open_engine(quantized_package, "keras", tmp_path, BF16).infer(images)
    assert np.abs(exact.logits - found.logits).max() > 1e-5
    assert np.corrcoef(exact.logits, found.logits)[0, 1] > 0.98
    assert found.logits.dtype == found.cams.dtype == np.float32
    with pytest.raises(UsageError, match="keras engine does not compute int8"):
        open_engine(quantized_package, "keras", tmp_path, INT8)
