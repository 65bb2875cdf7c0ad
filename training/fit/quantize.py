"""Post-training quantization: find the parameters of a graph's INT8 quantization from some images.

NNCF's quantization of the same graph was tried: its logits were 0.58 off in the mean, those of this module 0.10, as it
scales channels and corrects every convolution (by hand, see docs/model.md). NNCF also writes a second copy of the
weights, which would not fit into a package of 30 MB.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as opset
from numpy.typing import NDArray

from training.progress import Progress
from xray.network.int8 import (
    ACTIVATION_LEVELS,
    LayerQuantization,
    Quantization,
    convolutions,
    kernel_of,
    normalisation_before,
    rounded_kernel,
    scale_input,
)

CALIBRATION_IMAGES = 128
"""48 gave logits as near to float32's."""

SAMPLES = 4096
"""Values kept of each image and convolution, drawn at random, to choose the range that loses least."""

RANGE_SHARES = np.linspace(0.2, 1, 41)
"""The shares of the largest value that are tried as the end of a range."""

MAX_SCALE = 100.0
"""A channel's scale is between this and its inverse: what is nearly always 0 needs no more."""

_CHANNEL_AXES = np.array([0, 2, 3])
"""All axes but that of the channels."""


def find_quantization(read: Callable[[], ov.Model], images: NDArray[np.uint8], progress: Progress) -> Quantization:
    """Find the quantization of each convolution of a graph.

    Three passes over the images in float32: the largest value of each input channel, for its scale; values to choose
    the range of each convolution's scaled input; the means of the rounded and the unrounded input, for the correction
    of the mean error (Nagel et al. 2019, arXiv:1906.04721).

    Parameters
    ----------
    read : callable returning openvino.Model
        Reads the graph with its weights; called once for each pass, which changes it.
    images : ndarray of uint8, (N, size, size)
        Preprocessed images of the kind to be screened. The network should not be measured on them afterwards.
    progress : Progress
        Shows a progress bar.

    Returns
    -------
    Quantization
        To apply with :func:`xray.network.int8.quantize_graph`.
    """
    with progress.bar("quantization", 3 * len(images)) as advance:
        scales = _find_scales(read(), images, advance)
        ranges = _find_ranges(_scaled(read(), scales), images, advance)
        biases = _find_biases(_scaled(read(), scales), images, scales, ranges, advance)
    return {name: LayerQuantization(*ranges[name], scales[name], biases[name]) for name in scales}


def _find_scales(
    model: ov.Model, images: NDArray[np.uint8], advance: Callable[[int], None]
) -> dict[str, NDArray[np.float32]]:
    """Return a scale for each input channel that gives its values and its weights the same relative range."""
    nodes = convolutions(model)
    largest: list[Any] = [0.0] * len(nodes)
    for maxima in _each(
        model, images, [opset.reduce_max(node.input_value(0), _CHANNEL_AXES) for node in nodes], advance
    ):
        largest = [total + maximum / len(images) for total, maximum in zip(largest, maxima, strict=True)]
    scales = {}
    for node, values in zip(nodes, largest, strict=True):
        weights = np.abs(kernel_of(node)).max(axis=(0, 2, 3))
        scale = np.ones(len(weights), np.float32)
        used = (values > 0) & (weights > 0)
        if normalisation_before(node) is not None and used.any():
            root = np.sqrt(weights[used] / values[used])
            scale[used] = np.clip(root / np.exp(np.log(root).mean()), 1 / MAX_SCALE, MAX_SCALE)
        scales[node.get_friendly_name()] = scale
    return scales


def _scaled(model: ov.Model, scales: dict[str, NDArray[np.float32]]) -> ov.Model:
    for node in convolutions(model):
        scale = scales[node.get_friendly_name()]
        if (scale != 1).any():
            scale_input(node, scale)
    return model


def _find_ranges(
    model: ov.Model, images: NDArray[np.uint8], advance: Callable[[int], None]
) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(0)
    nodes = convolutions(model)
    samples: list[list[NDArray[np.float32]]] = [[] for _ in nodes]
    for inputs in _each(model, images, [node.input_value(0) for node in nodes], advance):
        for kept, values in zip(samples, inputs, strict=True):
            flat = values.ravel()
            kept.append(np.append(rng.choice(flat, SAMPLES), (flat.min(), flat.max())))
    return {
        node.get_friendly_name(): choose_range(np.concatenate(kept)) for node, kept in zip(nodes, samples, strict=True)
    }


def choose_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the range that rounds values with the least mean squared error; those outside are clipped.

    Parameters
    ----------
    values : ndarray of float32, (n,)
        A sample with its smallest and largest value.
    """
    low, high = min(0.0, float(values.min())), max(float(values.max()), 1e-6)

    def error(share: float) -> float:
        step = (high - low) * share / (ACTIVATION_LEVELS - 1)
        clipped = np.clip(values, low * share, high * share)
        return float(np.mean((values - low * share - np.rint((clipped - low * share) / step) * step) ** 2))

    best = min(RANGE_SHARES, key=error)
    return low * best, high * best


def _find_biases(
    model: ov.Model,
    images: NDArray[np.uint8],
    scales: dict[str, NDArray[np.float32]],
    ranges: dict[str, tuple[float, float]],
    advance: Callable[[int], None],
) -> dict[str, NDArray[np.float32]]:
    """Return the mean error of each convolution's output channels, from those of its input and its kernel."""
    nodes = convolutions(model)
    outputs = []
    for node in nodes:
        ends = [opset.constant(np.float32(end)) for end in ranges[node.get_friendly_name()]]
        rounded = opset.fake_quantize(node.input_value(0), *ends, *ends, ACTIVATION_LEVELS)
        outputs += [opset.reduce_mean(values, _CHANNEL_AXES) for values in (node.input_value(0), rounded)]
    sums: list[Any] = [0.0] * len(outputs)
    for means in _each(model, images, outputs, advance):
        sums = [total + mean / len(images) for total, mean in zip(sums, means, strict=True)]
    biases = {}
    for node, mean, rounded_mean in zip(nodes, sums[::2], sums[1::2], strict=True):
        name = node.get_friendly_name()
        kernel = kernel_of(node) / scales[name][None, :, None, None]
        error = kernel.sum(axis=(2, 3)) @ mean - rounded_kernel(kernel).sum(axis=(2, 3)) @ rounded_mean
        biases[name] = np.asarray(error, np.float32)
    return biases


def _each(
    model: ov.Model, images: NDArray[np.uint8], outputs: Sequence[ov.Node | ov.Output], advance: Callable[[int], None]
) -> Iterator[list[NDArray[np.float32]]]:
    """Yield for each image the values of some outputs within a graph, valid until the next image."""
    model.add_results([opset.result(output) for output in outputs])
    model.reshape([1, *images.shape[1:]])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    first = len(compiled.outputs) - len(outputs)
    for image in images:
        request.infer({0: image[None]})
        yield [request.get_output_tensor(first + number).data for number in range(len(outputs))]
        advance(1)
