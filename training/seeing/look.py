"""Look at films through a model's layers: what each layer makes of each film, on scales that films share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from training.seeing.activations import Channels, most_active
from training.seeing.film import Film
from training.seeing.gradcam import Probe
from training.seeing.layers import Kind, SeenLayer
from xray.card import Card


@dataclass(frozen=True)
class LayerSight:
    """One layer on one film.

    Attributes
    ----------
    layer : SeenLayer
        Which.
    grad_cam : ndarray of float32, (h, w)
        Signed; see :func:`training.seeing.gradcam.grad_cam`.
    channels : Channels
        The most active ones.
    """

    layer: SeenLayer
    grad_cam: NDArray[np.float32]
    channels: Channels


@dataclass(frozen=True)
class FilmSight:
    """One film through the network.

    Attributes
    ----------
    film : Film
        The radiograph.
    logit : float
        Before calibration.
    probability : float
        Calibrated, in [0, 1].
    cam : ndarray of float32, (h, w)
        The network's own map, signed, in units of the logit.
    layers : tuple of LayerSight
        From input to output.
    """

    film: Film
    logit: float
    probability: float
    cam: NDArray[np.float32]
    layers: tuple[LayerSight, ...]


def look_at(
    network: keras.Model, card: Card, films: Sequence[Film], layers: Sequence[SeenLayer], count: int
) -> Iterator[FilmSight]:
    """Yield what the network makes of each film.

    Parameters
    ----------
    network : keras.Model
        The card's network with its weights.
    card : Card
        For the calibration.
    films : sequence of Film
        The radiographs.
    layers : sequence of SeenLayer
        Where to look.
    count : int
        How many channels to keep of each layer.

    Raises
    ------
    UsageError
        If Keras does not run on TensorFlow.
    """
    probe = Probe(network, [layer.name for layer in layers])
    for film in films:
        sight = probe.look(film.square)
        seen = tuple(
            LayerSight(layer, cam, most_active(activation, count, film.placement, card.input_size))
            for layer, cam, activation in zip(layers, sight.grad_cams, sight.activations, strict=True)
        )
        yield FilmSight(film, sight.logit, float(card.probability(sight.logit)), sight.cam, seen)


def grad_cam_scale(layer: SeenLayer, sights: Sequence[FilmSight], card: Card) -> float:
    """Return the Grad-CAM value to draw at the colours' top, not negative.

    At the feature map it is the card's fixed scale, as in screening. No scale is known for other layers: there it is
    the greatest value over the films at hand, so that they can be compared with one another.

    Parameters
    ----------
    layer : SeenLayer
        One that was looked at.
    sights : sequence of FilmSight
        The films drawn together.
    card : Card
        For its ``heat_map_scale``.
    """
    if layer.kind is Kind.FEATURE_MAP:
        return card.heat_map_scale / (layer.height * layer.width)
    found = [seen.grad_cam.max() for sight in sights for seen in sight.layers if seen.layer == layer]
    return max(0.0, float(np.max(found)))
