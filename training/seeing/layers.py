"""Which layers of a network's backbone can be looked at, and which say most in a few pictures."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import keras

from xray.errors import UsageError
from xray.network import backbone_of

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
_ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU)
NEAR_NAMES = 5


class Kind(StrEnum):
    """What a layer does."""

    CONVOLUTION = "convolution"
    ACTIVATION = "activation"
    FEATURE_MAP = "feature map"


@dataclass(frozen=True)
class SeenLayer:
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
    kind: Kind
    height: int
    width: int
    channels: int

    @property
    def shape(self) -> str:
        """The output's shape in words, such as ``7 x 7 x 1664``."""
        return f"{self.height} x {self.width} x {self.channels}"


def visible_layers(network: keras.Model) -> tuple[SeenLayer, ...]:
    """Return the backbone's convolutions and activations, and its feature map, from input to output.

    Left out are layers coarser than the feature map: they gate channels (squeeze and excitation) and show no place.

    Parameters
    ----------
    network : keras.Model
        From :func:`xray.network.build_network`, channels last.
    """
    backbone = backbone_of(network)
    coarsest = _positions(backbone.output.shape)
    found = []
    for layer in backbone.layers:
        shape = tuple(layer.output.shape)
        kind = Kind.FEATURE_MAP if layer.output is backbone.output else _kind(layer)
        if kind is not None and len(shape) == 4 and _positions(shape) >= coarsest:
            found.append(SeenLayer(layer.name, kind, *shape[1:]))
    return tuple(found)


def telling_layers(layers: Sequence[SeenLayer]) -> tuple[SeenLayer, ...]:
    """Return one layer for each resolution: its last activation, or convolution where it has none.

    At the feature map's resolution it is the feature map.

    Parameters
    ----------
    layers : sequence of SeenLayer
        From :func:`visible_layers`.
    """
    rank = {Kind.CONVOLUTION: 0, Kind.ACTIVATION: 1, Kind.FEATURE_MAP: 2}
    best: dict[tuple[int, int], SeenLayer] = {}
    for layer in layers:
        held = best.get((layer.height, layer.width))
        if held is None or rank[layer.kind] >= rank[held.kind]:
            best[layer.height, layer.width] = layer
    return tuple(layer for layer in layers if layer in best.values())


def find_layers(layers: Sequence[SeenLayer], names: Sequence[str]) -> tuple[SeenLayer, ...]:
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


def _kind(layer: keras.layers.Layer) -> Kind | None:
    if isinstance(layer, _CONVOLUTIONS):
        return Kind.CONVOLUTION
    idle = getattr(layer, "activation", None) is keras.activations.linear
    return Kind.ACTIVATION if isinstance(layer, _ACTIVATIONS) and not idle else None


def _positions(shape: tuple[int | None, ...]) -> int:
    return (shape[1] or 0) * (shape[2] or 0)
