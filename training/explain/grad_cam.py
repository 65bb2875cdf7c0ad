"""A radiograph file as the network sees it, and as a person does."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.explain.layers import BackboneLayer, Channels, LayerKind, most_active
from xray.archives.files import read_image_file
from xray.errors import UsageError
from xray.images.decode import decode
from xray.images.preprocessing import Preprocessing
from xray.network.builder import backbone_of
from xray.network.card import Card

PANEL_SIDE = 480
"""Long side of a film as drawn, pixels."""


@dataclass(frozen=True)
class InputImage:
    """One radiograph.

    Attributes
    ----------
    name : str
        What it is called among the films drawn together, fit to be printed; see :func:`distinct_names`.
    gray : ndarray of uint8, (H, W)
        The film as drawn; its long side is 480 pixels.
    square : ndarray of uint8, (size, size)
        The network's input.
    placement : tuple of int
        Top, left, height and width of the film in the square, pixels.
    """

    name: str
    gray: NDArray[np.uint8]
    square: NDArray[np.uint8]
    placement: tuple[int, int, int, int]


def read_film(path: Path, name: str, preprocessing: Preprocessing) -> InputImage:
    """Decode a file as screening does, under a name from :func:`distinct_names`.

    Raises
    ------
    FileFault
        If it cannot be read as a radiograph.
    ArchiveOutage
        If its folder is missing or the storage does not answer.
    """
    # An archive's links may not lead out of it; a person may name any file.
    file = Path(os.path.realpath(path))
    gray = decode(read_image_file(file.parent, file.name))
    height, width = (max(1, round(side * PANEL_SIDE / max(gray.shape))) for side in gray.shape)
    drawn = np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))
    return InputImage(name, drawn, preprocessing.apply(gray), preprocessing.placement(*gray.shape))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Name files by the end of their paths: the shortest that no other has, as all of MURA's are called image1.png.

    Parameters
    ----------
    paths : sequence of Path
        N files, none twice.

    Returns
    -------
    list of str
        N names, fit to be printed, with slashes where one folder or more tells files apart.
    """
    ends = [[Path(*path.parts[-count:]).as_posix() for count in range(1, len(path.parts) + 1)] for path in paths]
    seen = Counter(end for each in ends for end in each)
    # The end of one path may be the whole of another, and is then that one's name.
    return [_safe_name(next((end for end in each if seen[end] == 1), each[-1])) for each in ends]


def _safe_name(name: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


@dataclass(frozen=True)
class LayerActivations:
    """What the network makes of one radiograph, at the layers asked for.

    Attributes
    ----------
    logit : float
        Before calibration.
    cam : ndarray of float32, (h, w)
        The network's own class activation map, signed, in units of the logit.
    activations : tuple of ndarray of float32, each (height, width, channels)
        The layers' outputs; after a ReLU they are not negative.
    grad_cams : tuple of ndarray of float32, each (height, width)
        Signed Grad-CAM at the layers; see :func:`grad_cam`.
    """

    logit: float
    cam: NDArray[np.float32]
    activations: tuple[NDArray[np.float32], ...]
    grad_cams: tuple[NDArray[np.float32], ...]


def grad_cam(activation: NDArray[np.floating], gradient: NDArray[np.floating]) -> NDArray[np.float32]:
    r"""Compute Grad-CAM [1]_ before its ReLU.

    .. math:: \alpha_k = \frac{1}{hw} \sum_{ij} \frac{\partial y}{\partial A_{ijk}}, \qquad
       \mathrm{cam}_{ij} = \sum_k \alpha_k A_{ijk}

    with the logit :math:`y`. At the feature map it is the network's own map divided by :math:`hw`. What is negative
    speaks against the finding; the paper's ReLU, which hides it, is left to the drawing.

    Parameters
    ----------
    activation : ndarray of float, (h, w, C)
        A layer's output :math:`A`.
    gradient : ndarray of float, (h, w, C)
        The logit's derivative by it.

    Returns
    -------
    ndarray of float32, (h, w)
        Signed, in units of the logit.

    References
    ----------
    .. [1] Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
       ICCV 2017, arXiv:1610.02391.
    """
    alpha = gradient.mean(axis=(0, 1), dtype=np.float64)
    return np.asarray(activation @ alpha, np.float32)


class Probe:
    """A network opened at some of its layers.

    Parameters
    ----------
    network : keras.Model
        From :func:`xray.network.builder.build_network`, channels last; its weights are shared, not copied.
    names : sequence of str
        Names of layers of its backbone.

    Raises
    ------
    UsageError
        If Keras does not run on TensorFlow, whose gradient tape is used.
    """

    def __init__(self, network: keras.Model, names: Sequence[str]) -> None:
        if keras.backend.backend() != "tensorflow":
            raise UsageError(
                f"layers takes gradients with TensorFlow and Keras runs on {keras.backend.backend()}: "
                "set KERAS_BACKEND=tensorflow"
            )
        backbone = backbone_of(network)
        before = network.operations[network.operations.index(backbone) - 1]
        self._scale = keras.Model(network.input, before.output)
        outputs = [backbone.get_layer(name).output for name in names]
        self._backbone = keras.Model(backbone.input, [*outputs, backbone.output])
        self._head = network.get_layer("head")

    def look(self, image: NDArray[np.uint8]) -> LayerActivations:
        """Run the network forward and back.

        Parameters
        ----------
        image : ndarray of uint8, (size, size)
            A preprocessed radiograph.
        """
        import tensorflow as tf

        scaled = self._scale(image[None], training=False)
        with tf.GradientTape() as tape:
            # Without it there would be no path to layers before the first weight.
            tape.watch(scaled)
            *activations, feature_map = self._backbone(scaled, training=False)
            logits, cams = self._head(feature_map)
        gradients = tape.gradient(logits, activations)
        seen = tuple(activation[0].numpy() for activation in activations)
        maps = tuple(
            grad_cam(activation, gradient[0].numpy()) for activation, gradient in zip(seen, gradients, strict=True)
        )
        return LayerActivations(float(logits[0]), cams[0].numpy(), seen, maps)


@dataclass(frozen=True)
class LayerExplanation:
    """One layer on one film.

    Attributes
    ----------
    layer : SeenLayer
        Which.
    grad_cam : ndarray of float32, (h, w)
        Signed; see :func:`training.explain.grad_cam.grad_cam`.
    channels : Channels
        The most active ones.
    """

    layer: BackboneLayer
    grad_cam: NDArray[np.float32]
    channels: Channels


@dataclass(frozen=True)
class ImageExplanation:
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

    film: InputImage
    logit: float
    probability: float
    cam: NDArray[np.float32]
    layers: tuple[LayerExplanation, ...]


def look_at(
    network: keras.Model, card: Card, films: Sequence[InputImage], layers: Sequence[BackboneLayer], count: int
) -> Iterator[ImageExplanation]:
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
            LayerExplanation(layer, cam, most_active(activation, count, film.placement, card.input_size))
            for layer, cam, activation in zip(layers, sight.grad_cams, sight.activations, strict=True)
        )
        yield ImageExplanation(film, sight.logit, float(card.probability(sight.logit)), sight.cam, seen)


def grad_cam_scale(layer: BackboneLayer, sights: Sequence[ImageExplanation], card: Card) -> float:
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
    if layer.kind is LayerKind.FEATURE_MAP:
        return card.heat_map_scale / (layer.height * layer.width)
    found = [seen.grad_cam.max() for sight in sights for seen in sight.layers if seen.layer == layer]
    return max(0.0, float(np.max(found)))
