"""Layers of a backbone whose output can be drawn, and their most active channels."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import keras
import numpy as np
from numpy.typing import NDArray

from xray.errors import UsageError
from xray.network.builder import backbone_of, feature_map_outputs

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
_ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU)
SIMILAR_NAMES = 5


class LayerKind(StrEnum):
    """What a layer does."""

    CONVOLUTION = "convolution"
    ACTIVATION = "activation"
    FEATURE_MAP = "feature map"


@dataclass(frozen=True)
class BackboneLayer:
    """A layer whose output is a grid of many channels.

    Attributes
    ----------
    name : str
        The layer's name in Keras.
    kind : LayerKind
        ``FEATURE_MAP``, whatever the layer does, where its output goes to the head: the backbone's last layer, and
        the one that a finer map begins with.
    height, width, channels : int
        The output is float32 ``(N, height, width, channels)``.
    """

    name: str
    kind: LayerKind
    height: int
    width: int
    channels: int

    @property
    def shape(self) -> str:
        """The output's shape as text, such as ``7 x 7 x 1664``."""
        return f"{self.height} x {self.width} x {self.channels}"


def drawable_layers(network: keras.Model) -> tuple[BackboneLayer, ...]:
    """Return the backbone's convolutions and activations, and its feature maps, from input to output.

    Layers coarser than the last feature map are left out: they weight channels (squeeze and excitation) and have no
    positions.

    Parameters
    ----------
    network : keras.Model
        From :func:`xray.network.builder.build_network`, channels last.
    """
    backbone = backbone_of(network)
    coarsest = _positions(backbone.output.shape)
    feature_maps = set(map(id, feature_map_outputs(network)))
    layers = []
    for layer in backbone.layers:
        shape = tuple(layer.output.shape)
        kind = LayerKind.FEATURE_MAP if id(layer.output) in feature_maps else _kind(layer)
        if kind is not None and len(shape) == 4 and _positions(shape) >= coarsest:
            layers.append(BackboneLayer(layer.name, kind, *shape[1:]))
    return tuple(layers)


def default_layers(layers: Sequence[BackboneLayer]) -> tuple[BackboneLayer, ...]:
    """Return one layer for each resolution: its last activation, or its last convolution where it has none.

    At the resolution of a feature map it is the feature map.

    Parameters
    ----------
    layers : sequence of BackboneLayer
        From :func:`drawable_layers`.
    """
    rank = {LayerKind.CONVOLUTION: 0, LayerKind.ACTIVATION: 1, LayerKind.FEATURE_MAP: 2}
    best: dict[tuple[int, int], BackboneLayer] = {}
    for layer in layers:
        so_far = best.get((layer.height, layer.width))
        if so_far is None or rank[layer.kind] >= rank[so_far.kind]:
            best[layer.height, layer.width] = layer
    return tuple(layer for layer in layers if layer in best.values())


def find_layers(layers: Sequence[BackboneLayer], names: Sequence[str]) -> tuple[BackboneLayer, ...]:
    """Return the layers with these names, from input to output.

    Raises
    ------
    UsageError
        If there is no layer of a name; lists similar names.
    """
    known = [layer.name for layer in layers]
    for name in names:
        if name not in known:
            similar = difflib.get_close_matches(name, known, SIMILAR_NAMES, cutoff=0.4) or known[-SIMILAR_NAMES:]
            raise UsageError(
                f"the network has no layer {name!r} to draw; similar names: {', '.join(similar)}; --list shows all"
            )
    return tuple(layer for layer in layers if layer.name in names)


def _kind(layer: keras.layers.Layer) -> LayerKind | None:
    if isinstance(layer, _CONVOLUTIONS):
        return LayerKind.CONVOLUTION
    linear = getattr(layer, "activation", None) is keras.activations.linear
    return LayerKind.ACTIVATION if isinstance(layer, _ACTIVATIONS) and not linear else None


def _positions(shape: tuple[int | None, ...]) -> int:
    return (shape[1] or 0) * (shape[2] or 0)


@dataclass(frozen=True)
class Channels:
    """The n most active channels of a layer for one image, the most active first.

    Attributes
    ----------
    numbers : ndarray of int64, (n,)
        Their indices among the layer's channels, from 0.
    spreads : ndarray of float64, (n,)
        Standard deviation of each over the image, in the activation's own units, not negative.
    grids : ndarray of float32, (n, height, width)
        Their activations over the network's square input.
    """

    numbers: NDArray[np.int64]
    spreads: NDArray[np.float64]
    grids: NDArray[np.float32]


def most_active_channels(
    activation: NDArray[np.float32], count: int, image_box: tuple[int, int, int, int], size: int
) -> Channels:
    """Choose the channels that vary most over the image: the largest spatial standard deviation, without padding.

    The mean does not count: a channel that is high everywhere does not show where anything is.

    Parameters
    ----------
    activation : ndarray of float32, (height, width, C)
        A layer's output for one image.
    count : int
        Number of channels to choose; all where the layer has fewer.
    image_box : tuple of int
        Top, left, height and width of the image in the square input, pixels; see
        :meth:`xray.images.preprocessing.Preprocessing.image_box`.
    size : int
        Side of the square input, pixels.
    """
    spreads = without_padding(activation, image_box, size).std(axis=(0, 1), dtype=np.float64)
    numbers = np.argsort(-spreads, kind="stable")[:count]
    return Channels(numbers, spreads[numbers], np.moveaxis(activation[..., numbers], -1, 0))


def without_padding(grid: NDArray[np.float32], image_box: tuple[int, int, int, int], size: int) -> NDArray[np.float32]:
    """Return the cells of a grid over the square input that overlap the image.

    Parameters
    ----------
    grid : ndarray of float32, (height, width, ...)
        Over the whole square.
    image_box : tuple of int
        As in :func:`most_active_channels`.
    size : int
        Side of the square, pixels.
    """
    top, left, image_height, image_width = image_box
    height, width = grid.shape[:2]
    rows = slice(top * height // size, -(-(top + image_height) * height // size))
    columns = slice(left * width // size, -(-(left + image_width) * width // size))
    return grid[rows, columns]


def to_unit_range(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map values of any shape linearly to [0, 1], the least to 0 and the greatest to 1; equal values to 0."""
    low, high = float(values.min()), float(values.max())
    return np.asarray(values - low, np.float64) / (high - low) if high > low else np.zeros(values.shape)
