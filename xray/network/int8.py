"""INT8 quantization of a package's OpenVINO graph: convolutions in 8 bits, head and CAM in float32.

A package holds the parameters of the quantization (``int8.npz``) and no second copy of the weights: these are rounded
when the graph is loaded. `training.fit.quantize` finds the parameters.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as opset
from numpy.typing import NDArray

from xray.errors import PackageError

INT8_FILE = "int8.npz"

ACTIVATION_LEVELS = 256
WEIGHT_LEVELS = 255
"""Symmetric about zero: -127 to 127."""


@dataclass(frozen=True)
class LayerQuantization:
    """The quantization of one convolution of C channels to K.

    Attributes
    ----------
    low, high : float
        The range of its scaled input; values outside are clipped. 256 levels.
    scale : ndarray of float32, (C,)
        Factor of each input channel, which the batch normalisation before it takes over and the weights take back:
        channels of similar size lose less to a common range (Nagel et al. 2019, arXiv:1906.04721). All 1 where that is
        not possible.
    bias : ndarray of float32, (K,)
        Added to the output: the mean error of the rounding.
    """

    low: float
    high: float
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


Quantization = Mapping[str, LayerQuantization]
"""The quantized convolutions, by their names in the graph; the others stay in float32."""


def quantization_bytes(quantization: Quantization) -> bytes:
    """Return a quantization as the contents of ``int8.npz``."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, layer in quantization.items():
        arrays[f"{name}/range"] = np.array([layer.low, layer.high], np.float32)
        arrays[f"{name}/scale"], arrays[f"{name}/bias"] = layer.scale, layer.bias
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def read_quantization(path: Path) -> Quantization:
    """Read a package's quantization.

    Raises
    ------
    PackageError
        If the file cannot be read, or its arrays are not finite numbers of the expected form.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            arrays = {name: np.asarray(loaded[name], np.float32) for name in loaded.files}
        names = sorted({name.rpartition("/")[0] for name in arrays})
        layers = {name: [arrays.pop(f"{name}/{part}") for part in ("range", "scale", "bias")] for name in names}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise PackageError(f"{path} is not a readable quantization: {error}") from error
    for name, (ends, scale, bias) in layers.items():
        finite = all(np.isfinite(values).all() for values in (ends, scale, bias))
        if not finite or ends.shape != (2,) or ends[0] >= ends[1] or (scale <= 0).any():
            raise PackageError(f"{path}: the parameters of {name} are out of range")
    return {
        name: LayerQuantization(float(ends[0]), float(ends[1]), scale, bias)
        for name, (ends, scale, bias) in layers.items()
    }


def quantize_graph(model: ov.Model, quantization: Quantization) -> None:
    """Quantize a graph in place.

    Parameters
    ----------
    model : openvino.Model
        From `xray.network.openvino_graph.read_graph`.
    quantization : Quantization
        The parameters of the same graph.

    Raises
    ------
    PackageError
        If they name a convolution that the graph does not have, or do not fit one.
    """
    nodes = {node.get_friendly_name(): node for node in convolutions(model)}
    for name, layer in quantization.items():
        if name not in nodes:
            raise PackageError(f"{INT8_FILE} names {name}, which is no convolution of the graph")
        node = nodes[name]
        kernel = kernel_of(node)
        if layer.scale.shape != (kernel.shape[1],) or layer.bias.shape != (kernel.shape[0],):
            raise PackageError(f"{INT8_FILE}: the parameters of {name} do not fit its kernel of shape {kernel.shape}")
        if (layer.scale != 1).any():
            scale_input(node, layer.scale)
            kernel = kernel / layer.scale[None, :, None, None]
        node.input(0).replace_source_output(_rounded(node.input_value(0), layer.low, layer.high).output(0))
        node.input(1).replace_source_output(_rounded_kernel(kernel).output(0))
        users = list(node.output(0).get_target_inputs())
        corrected = opset.add(node, opset.constant(layer.bias.reshape(1, -1, 1, 1)))
        for user in users:
            user.replace_source_output(corrected.output(0))
    model.validate_nodes_and_infer_types()


def convolutions(model: ov.Model) -> list[ov.Node]:
    """Return a graph's convolutions with a constant kernel, in the order of computation; grouped ones are left out."""
    found = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    return [node for node in found if _constant_before(node.input_value(1)) is not None]


def kernel_of(node: ov.Node) -> NDArray[np.float32]:
    """Return a convolution's kernel, float32 ``(K, C, h, w)``."""
    source = node.input_value(1).get_node()
    kernel = _constant_before(node.input_value(1)).get_data()
    if source.get_type_name() == "Transpose":
        kernel = kernel.transpose(source.input_value(1).get_node().get_data())
    return np.ascontiguousarray(kernel)


def _constant_before(output: ov.Output) -> Any:
    """Return the constant that an output is, or is the transpose of; None if it is neither."""
    node = output.get_node()
    if node.get_type_name() == "Transpose":
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


def normalisation_before(node: ov.Node) -> ov.Node | None:
    """Return the batch normalisation whose rectified output only this convolution takes, or None."""
    rectified = node.input_value(0).get_node()
    if rectified.get_type_name() != "Relu" or len(rectified.output(0).get_target_inputs()) != 1:
        return None
    before = rectified.input_value(0).get_node()
    alone = before.get_type_name() == "BatchNormInference" and len(before.output(0).get_target_inputs()) == 1
    return before if alone else None


def scale_input(node: ov.Node, scale: NDArray[np.float32]) -> None:
    """Multiply the input channels of a convolution, by the batch normalisation before it; not its kernel."""
    before = normalisation_before(node)
    if before is None:
        raise PackageError(f"{INT8_FILE} scales the input of {node.get_friendly_name()}, which has no normalisation")
    # relu(s * x) = s * relu(x) for s > 0. Gamma and beta are inputs 1 and 2.
    for port in (1, 2):
        values = before.input_value(port).get_node().get_data()
        before.input(port).replace_source_output(opset.constant(values * scale).output(0))


def rounded_kernel(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round a kernel ``(K, C, h, w)`` as the quantized graph does: 255 levels for each output channel."""
    step = _kernel_step(kernel)
    rounded: NDArray[np.float32] = np.rint(kernel / step) * step
    return rounded


def _kernel_step(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
    # A kernel of zeros has any step.
    step = np.where(largest > 0, largest, 1) / (WEIGHT_LEVELS // 2)
    return step.astype(np.float32)


def _rounded_kernel(kernel: NDArray[np.float32]) -> ov.Node:
    high = opset.constant(_kernel_step(kernel) * np.float32(WEIGHT_LEVELS // 2))
    low = opset.constant(-high.get_data())
    return opset.fake_quantize(opset.constant(np.ascontiguousarray(kernel)), low, high, low, high, WEIGHT_LEVELS)


def _rounded(values: ov.Output, low: float, high: float) -> ov.Node:
    bounds = [opset.constant(np.float32(bound)) for bound in (low, high)]
    return opset.fake_quantize(values, *bounds, *bounds, ACTIVATION_LEVELS)
