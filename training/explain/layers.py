"""Which of a layer's many channels are worth a look on one film."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import keras
import numpy as np
from numpy.typing import NDArray

from xray.errors import UsageError
from xray.network.builder import backbone_of


@dataclass(frozen=True)
class Channels:
    """The most active channels of a layer on one film, n of them, the most active first.

    Attributes
    ----------
    numbers : ndarray of int64, (n,)
        Their places among the layer's channels, from 0.
    spreads : ndarray of float64, (n,)
        Standard deviation of each over the film, in the activation's own units, not negative.
    grids : ndarray of float32, (n, height, width)
        Their activations over the network's square input.
    """

    numbers: NDArray[np.int64]
    spreads: NDArray[np.float64]
    grids: NDArray[np.float32]


def most_active(
    activation: NDArray[np.float32], count: int, placement: tuple[int, int, int, int], size: int
) -> Channels:
    """Choose the channels that vary most over the film: largest spatial standard deviation, padding left out.

    A channel that is high everywhere tells nothing of where, so the mean is not looked at.

    Parameters
    ----------
    activation : ndarray of float32, (height, width, C)
        A layer's output for one film.
    count : int
        How many to choose; all when the layer has fewer.
    placement : tuple of int
        Top, left, height and width of the film in the square input, pixels; see
        :meth:`xray.images.preprocessing.Preprocessing.placement`.
    size : int
        Side of the square input, pixels.
    """
    spreads = film_part(activation, placement, size).std(axis=(0, 1), dtype=np.float64)
    numbers = np.argsort(-spreads, kind="stable")[:count]
    return Channels(numbers, spreads[numbers], np.moveaxis(activation[..., numbers], -1, 0))


def film_part(grid: NDArray[np.float32], placement: tuple[int, int, int, int], size: int) -> NDArray[np.float32]:
    """Return the cells of a grid over the square input that the film touches.

    Parameters
    ----------
    grid : ndarray of float32, (height, width, ...)
        Over the whole square.
    placement : tuple of int
        As of :func:`most_active`.
    size : int
        Side of the square, pixels.
    """
    top, left, film_height, film_width = placement
    height, width = grid.shape[:2]
    rows = slice(top * height // size, -(-(top + film_height) * height // size))
    columns = slice(left * width // size, -(-(left + film_width) * width // size))
    return grid[rows, columns]


def to_unit_range(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map values of any shape linearly to [0, 1], least to greatest; all alike become 0."""
    low, high = float(values.min()), float(values.max())
    return np.asarray(values - low, np.float64) / (high - low) if high > low else np.zeros(values.shape)


_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
_ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU)
NEAR_NAMES = 5


class LayerKind(StrEnum):
    """What a layer does."""

    CONVOLUTION = "convolution"
    ACTIVATION = "activation"
    FEATURE_MAP = "feature map"


@dataclass(frozen=True)
class BackboneLayer:
    """A layer whose output is an image of many channels.

    Attributes
    ----------
    name : str
        As Keras calls it.
    kind : Kind
        ``FEATURE_MAP`` is the backbone's last layer, whatever it does: what the head is given.
    height, width, channels : int
        Its output is float32 ``(N, height, width, channels)``.
    """

    name: str
    kind: LayerKind
    height: int
    width: int
    channels: int

    @property
    def shape(self) -> str:
        """The output's shape in words, such as ``7 x 7 x 1664``."""
        return f"{self.height} x {self.width} x {self.channels}"


def visible_layers(network: keras.Model) -> tuple[BackboneLayer, ...]:
    """Return the backbone's convolutions and activations, and its feature map, from input to output.

    Left out are layers coarser than the feature map: they gate channels (squeeze and excitation) and show no place.

    Parameters
    ----------
    network : keras.Model
        From :func:`xray.network.builder.build_network`, channels last.
    """
    backbone = backbone_of(network)
    coarsest = _positions(backbone.output.shape)
    found = []
    for layer in backbone.layers:
        shape = tuple(layer.output.shape)
        kind = LayerKind.FEATURE_MAP if layer.output is backbone.output else _kind(layer)
        if kind is not None and len(shape) == 4 and _positions(shape) >= coarsest:
            found.append(BackboneLayer(layer.name, kind, *shape[1:]))
    return tuple(found)


def telling_layers(layers: Sequence[BackboneLayer]) -> tuple[BackboneLayer, ...]:
    """Return one layer for each resolution: its last activation, or convolution where it has none.

    At the feature map's resolution it is the feature map.

    Parameters
    ----------
    layers : sequence of SeenLayer
        From :func:`visible_layers`.
    """
    rank = {LayerKind.CONVOLUTION: 0, LayerKind.ACTIVATION: 1, LayerKind.FEATURE_MAP: 2}
    best: dict[tuple[int, int], BackboneLayer] = {}
    for layer in layers:
        held = best.get((layer.height, layer.width))
        if held is None or rank[layer.kind] >= rank[held.kind]:
            best[layer.height, layer.width] = layer
    return tuple(layer for layer in layers if layer in best.values())


def find_layers(layers: Sequence[BackboneLayer], names: Sequence[str]) -> tuple[BackboneLayer, ...]:
    """Return the layers of these names, from input to output.

    Raises
    ------
    UsageError
        If there is no such layer; lists those whose names are nearest.
    """
    known = [layer.name for layer in layers]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, NEAR_NAMES, cutoff=0.4) or known[-NEAR_NAMES:]
            raise UsageError(
                f"the network has no layer {name!r} to look at; near it: {', '.join(near)}; --list shows all"
            )
    return tuple(layer for layer in layers if layer.name in names)


def _kind(layer: keras.layers.Layer) -> LayerKind | None:
    if isinstance(layer, _CONVOLUTIONS):
        return LayerKind.CONVOLUTION
    idle = getattr(layer, "activation", None) is keras.activations.linear
    return LayerKind.ACTIVATION if isinstance(layer, _ACTIVATIONS) and not idle else None


def _positions(shape: tuple[int | None, ...]) -> int:
    return (shape[1] or 0) * (shape[2] or 0)
