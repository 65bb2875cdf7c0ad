"""How alike two maps are: by rank, and by structure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from training.explain.layers import film_part, to_unit_range
from xray.network.builder import backbone_of, build_network, network_weights
from xray.network.card import Card


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation of two maps' cells.

    Parameters
    ----------
    one, other : ndarray of float, (h, w)
        Signed maps, any scale.

    Returns
    -------
    float
        In [-1, 1]; 0 when a map is the same everywhere, as it orders nothing.

    References
    ----------
    Spearman, "The Proof and Measurement of Association between Two Things", 1904; ties get their mean rank.
    """
    ranks = np.stack([stats.rankdata(one.ravel()), stats.rankdata(other.ravel())])
    if (ranks == ranks[:, :1]).all(axis=1).any():
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def structural_similarity(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    r"""Return SSIM [1]_ of two maps, each first mapped linearly to [0, 1].

    .. math:: \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}
       {(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}, \qquad c_1 = 0.01^2, \; c_2 = 0.03^2

    in one window over the whole map: a map of 7 x 7 cells is about as large as the paper's 8 x 8 window.

    Parameters
    ----------
    one, other : ndarray of float, (h, w)
        Signed maps, any scale.

    Returns
    -------
    float
        In [-1, 1]; 1 for maps that are the same up to scale and offset.

    References
    ----------
    .. [1] Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004.
    """
    x, y = to_unit_range(one), to_unit_range(other)
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * x.mean() * y.mean() + c1) / (x.mean() ** 2 + y.mean() ** 2 + c1)
    structure = (2 * covariance + c2) / (x.var() + y.var() + c2)
    return float(light * structure)


Explain = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
Measure = Callable[[NDArray[np.floating], NDArray[np.floating]], float]

DRAWS = 3
ENOUGH_FILMS = 10
FALLEN, KEPT = 0.2, 0.5

FAINT = 1e-4
"""Largest value of a map, as a share of the logit or of 1 if that is more, below which it is rounding and no map."""


@dataclass(frozen=True)
class Cascade:
    """How the maps of N films change as S stages of a network are randomised, in D draws of random weights.

    Attributes
    ----------
    stages : tuple of str
        The S stages in the order they were randomised; each adds to those before.
    maps : ndarray of float32, (S + 1, N, h, w)
        The first draw's maps, signed; ``maps[0]`` are the network's own, 0 all over where there is none.
    mapped : ndarray of bool, (N,)
        On which films the network has a map.
    rank_correlations, similarities : ndarray of float64, (D, S, M)
        Spearman's rank correlation and SSIM with the network's own maps, in [-1, 1], over the cells that the film
        touches; of the M films that have a map, or of all where none has.
    """

    stages: tuple[str, ...]
    maps: NDArray[np.float32]
    mapped: NDArray[np.bool_]
    rank_correlations: NDArray[np.float64]
    similarities: NDArray[np.float64]

    @property
    def draws(self) -> int:
        """How often weights were drawn, D."""
        return len(self.rank_correlations)

    @property
    def means(self) -> list[tuple[str, float, float]]:
        """For each stage its name, and rank correlation and SSIM over draws and films, in [-1, 1]."""
        by_stage = self.rank_correlations.mean(axis=(0, 2)), self.similarities.mean(axis=(0, 2))
        return list(zip(self.stages, *(values.tolist() for values in by_stage), strict=True))

    @property
    def left(self) -> float:
        """What is left with all weights random, in [0, 1]: the size of each draw's mean over films, averaged.

        The sign is dropped, as a random head may turn a map around, and two such draws are not to cancel out.
        """
        return float(np.abs(self.rank_correlations[:, -1].mean(axis=1)).mean())

    @property
    def verdict(self) -> str:
        """Say in a sentence what the rank correlation that is left means."""
        films, without = int(self.mapped.sum()), int((~self.mapped).sum())
        if not films:
            return (
                f"The network has no map to check: on none of the {without} films does its largest value come to "
                f"{FAINT:g} of the logit."
            )
        if self.left <= FALLEN:
            said = "the map depends on what the network has learnt"
        elif self.left <= KEPT:
            said = "the map depends only in part on what the network has learnt, and in part on film and architecture"
        else:
            said = "the map hardly depends on what the network has learnt: do not take it for an explanation"
        hint = f" With {films} of the {ENOUGH_FILMS} films that are wanted, it is only a hint." * (films < ENOUGH_FILMS)
        hint += f" {without} without a map are left out." * bool(without)
        return f"With all weights random a rank correlation of size {self.left:.2f} is left, so {said}.{hint}"


def cascade(
    network: keras.Model,
    fresh: Iterable[keras.Model],
    images: NDArray[np.uint8],
    explain: Explain,
    *,
    placements: Sequence[tuple[int, int, int, int]],
    logits: Sequence[float],
) -> Cascade:
    """Randomise a network from its head down, stage by stage, and compare its maps with those it gave before.

    A stage is the head, or all layers of one resolution. Each weight becomes what a new network has there: kernels from
    their initialiser, batch normalisation reset with its statistics. The network has its own weights again afterwards.

    Parameters
    ----------
    network : keras.Model
        From :func:`xray.network.builder.build_network`.
    fresh : iterable of keras.Model
        D networks of the same build with random weights, such as :func:`random_network` makes.
    images : ndarray of uint8, (N, size, size)
        Preprocessed radiographs.
    explain : callable
        From such images to maps ``(N, h, w)``, float, signed, by the weights that `network` has at the moment.
    placements : sequence of tuple of int
        Where each film lies in its image, as of :func:`training.explain.layers.film_part`.
    logits : sequence of float
        What the network says of each film.

    References
    ----------
    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, arXiv:1810.03292.
    """
    own = network_weights(network)
    before = np.asarray(explain(images), np.float32)
    stages = randomised_stages(network)
    draws = []
    try:
        for other in fresh:
            maps = []
            for layers, new_layers in zip(stages.values(), randomised_stages(other).values(), strict=True):
                for layer, new in zip(layers, new_layers, strict=True):
                    layer.set_weights(new.get_weights())
                maps.append(np.asarray(explain(images), np.float32))
            draws.append(np.stack(maps))
            network.set_weights(own)
    finally:
        network.set_weights(own)
    films = [partial(film_part, placement=placement, size=images.shape[1]) for placement in placements]
    return _compare(tuple(stages), np.stack(draws), before, films, np.asarray(logits))


def random_network(card: Card, seed: int) -> keras.Model:
    """Build a card's network with weights from their initialisers; seeds Keras' random numbers."""
    keras.utils.set_random_seed(seed)
    return build_network(card.backbone, card.input_size, card.head)


def randomised_stages(network: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """Return a network's layers with weights by stage: the head, then each resolution of the backbone, coarse to fine.

    A layer that gates channels (1 x 1, squeeze and excitation) belongs to the resolution before it.
    """
    backbone = backbone_of(network)
    coarsest = backbone.output.shape[1] * backbone.output.shape[2]
    found: dict[tuple[int, int], list[keras.layers.Layer]] = {}
    place = tuple(backbone.input.shape[1:3])
    for layer in backbone.layers:
        shape = tuple(layer.output.shape)
        if len(shape) == 4 and shape[1] * shape[2] >= coarsest:
            place = shape[1:3]
        if layer.weights:
            found.setdefault(place, []).append(layer)
    stages = {f"{height} x {width}": found[height, width] for height, width in sorted(found, key=np.prod)}
    return {"head": [network.get_layer("head")], **stages}


def _compare(
    stages: tuple[str, ...],
    draws: NDArray[np.float32],
    before: NDArray[np.float32],
    films: Sequence[Callable[[NDArray[np.float32]], NDArray[np.float32]]],
    logits: NDArray[np.floating],
) -> Cascade:
    """Compare maps ``(D, S, N, h, w)`` with those before, ``(N, h, w)``, over what each film cuts out of a map."""
    largest = np.array([np.abs(film(own)).max() for film, own in zip(films, before, strict=True)])
    mapped = largest >= FAINT * np.maximum(1, np.abs(logits))
    before = np.where(mapped[:, None, None], before, 0)
    measured = np.flatnonzero(mapped | ~mapped.any()).tolist()

    def measure(similarity: Measure) -> NDArray[np.float64]:
        return np.array(
            [
                [[similarity(films[n](before[n]), films[n](maps[n])) for n in measured] for maps in draw]
                for draw in draws
            ]
        )

    maps = np.concatenate([before[None], draws[0]])
    return Cascade(stages, maps, mapped, measure(rank_correlation), measure(structural_similarity))
