"""Cascading randomisation (Adebayo et al. 2018): whether a map depends on the trained weights of its network."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from training.explain.layers import to_unit_range, without_padding
from xray.network.builder import backbone_of, build_from_card, head_layers, network_weights
from xray.network.card import Card
from xray.vocabulary import count

Explain = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
Similarity = Callable[[NDArray[np.floating], NDArray[np.floating]], float]

DRAWS = 3
ENOUGH_IMAGES = 10
DEPENDENT, PARTLY_DEPENDENT = 0.2, 0.5
"""Largest rank correlation that may remain for a map to depend on the trained weights, fully or in part."""

NO_MAP = 1e-4
"""Largest value of a map, as a share of the logit or of 1 if that is more, below which it is rounding and no map."""


@dataclass(frozen=True)
class RandomisationTest:
    """How the maps of N images change as S stages of a network are randomised, in D draws of random weights.

    Attributes
    ----------
    stages : tuple of str
        The S stages in the order of randomisation; each includes those before.
    maps : ndarray of float32, (S + 1, N, h, w)
        Maps of the first draw, signed; ``maps[0]`` are those of the trained network, zero where it has none.
    has_map : ndarray of bool, (N,)
        For which images the trained network has a map.
    rank_correlations, similarities : ndarray of float64, (D, S, M)
        Spearman's rank correlation and SSIM with the trained network's maps, in [-1, 1], over the cells that overlap
        the image; of the M images that have a map, or of all where none has.
    """

    stages: tuple[str, ...]
    maps: NDArray[np.float32]
    has_map: NDArray[np.bool_]
    rank_correlations: NDArray[np.float64]
    similarities: NDArray[np.float64]

    @property
    def draws(self) -> int:
        """Number of draws of random weights, D."""
        return len(self.rank_correlations)

    @property
    def means(self) -> list[tuple[str, float, float]]:
        """The name of each stage, and mean rank correlation and SSIM over draws and images, in [-1, 1]."""
        by_stage = self.rank_correlations.mean(axis=(0, 2)), self.similarities.mean(axis=(0, 2))
        return list(zip(self.stages, *(values.tolist() for values in by_stage), strict=True))

    @property
    def remaining_correlation(self) -> float:
        """Rank correlation that remains with all weights random, in [0, 1].

        It is the mean over draws of the absolute value of each draw's mean over images: a random head may invert a map,
        and two such draws must not cancel out.
        """
        return float(np.abs(self.rank_correlations[:, -1].mean(axis=1)).mean())

    @property
    def conclusion(self) -> str:
        """What the remaining rank correlation means, in a sentence."""
        images, without = int(self.has_map.sum()), int((~self.has_map).sum())
        if not images:
            return (
                f"The network has no map to check: in each image ({without}) its largest value is below {NO_MAP:g} of "
                "the logit."
            )
        if self.remaining_correlation <= DEPENDENT:
            meaning = "the map depends on the trained weights"
        elif self.remaining_correlation <= PARTLY_DEPENDENT:
            meaning = "the map depends on the trained weights only in part, and in part on image and architecture"
        else:
            meaning = "the map hardly depends on the trained weights: do not use it as an explanation"
        hint = ""
        if images < ENOUGH_IMAGES:
            hint = f" With {count(images, 'image')}, and {ENOUGH_IMAGES} needed, this is only a hint."
        if without:
            hint += f" {without} {'image has' if without == 1 else 'images have'} no map and did not count."
        return (
            f"With all weights random a rank correlation of {self.remaining_correlation:.2f} remains: {meaning}.{hint}"
        )


def randomise_in_cascade(
    network: keras.Model,
    random_networks: Iterable[keras.Model],
    images: NDArray[np.uint8],
    explain: Explain,
    *,
    image_boxes: Sequence[tuple[int, int, int, int]],
    logits: Sequence[float],
) -> RandomisationTest:
    """Randomise a network from its head down, stage by stage, and compare its maps with those of the trained weights.

    A stage is the head, or all layers of one resolution. Each weight is replaced by that of a new network: kernels from
    their initialiser, batch normalisation with initial statistics. The trained weights are restored afterwards.

    Parameters
    ----------
    network : keras.Model
        From :func:`xray.network.builder.build_network`.
    random_networks : iterable of keras.Model
        D networks of the same architecture with random weights, as from :func:`random_network`.
    images : ndarray of uint8, (N, size, size)
        Preprocessed radiographs.
    explain : callable
        From such images to maps ``(N, h, w)``, float, signed, by the current weights of `network`.
    image_boxes : sequence of tuple of int
        Where each image is in its square, as in :func:`training.explain.layers.without_padding`.
    logits : sequence of float
        The trained network's logit of each image.

    References
    ----------
    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, arXiv:1810.03292.
    """
    trained_weights = network_weights(network)
    trained_maps = np.asarray(explain(images), np.float32)
    stages = network_stages(network)
    draws = []
    try:
        for other in random_networks:
            maps = []
            for layers, new_layers in zip(stages.values(), network_stages(other).values(), strict=True):
                for layer, new in zip(layers, new_layers, strict=True):
                    layer.set_weights(new.get_weights())
                maps.append(np.asarray(explain(images), np.float32))
            draws.append(np.stack(maps))
            network.set_weights(trained_weights)
    finally:
        network.set_weights(trained_weights)
    crops = [partial(without_padding, image_box=image_box, size=images.shape[1]) for image_box in image_boxes]
    return _compare(tuple(stages), np.stack(draws), trained_maps, crops, np.asarray(logits))


def random_network(card: Card, seed: int) -> keras.Model:
    """Build a card's network with weights from their initialisers; seeds the random numbers of Keras."""
    keras.utils.set_random_seed(seed)
    return build_from_card(card)


def network_stages(network: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """Return a network's layers with weights by stage: the head, then each resolution of the backbone, coarse to fine.

    A layer that weights channels (1 x 1, squeeze and excitation) belongs to the resolution before it.
    """
    backbone = backbone_of(network)
    coarsest = backbone.output.shape[1] * backbone.output.shape[2]
    by_resolution: dict[tuple[int, int], list[keras.layers.Layer]] = {}
    resolution = tuple(backbone.input.shape[1:3])
    for layer in backbone.layers:
        shape = tuple(layer.output.shape)
        if len(shape) == 4 and shape[1] * shape[2] >= coarsest:
            resolution = shape[1:3]
        if layer.weights:
            by_resolution.setdefault(resolution, []).append(layer)
    stages = {
        f"{height} x {width}": by_resolution[height, width] for height, width in sorted(by_resolution, key=np.prod)
    }
    return {"head": head_layers(network), **stages}


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation of two maps' cells.

    Parameters
    ----------
    one, other : ndarray of float, (h, w)
        Signed maps, any scale.

    Returns
    -------
    float
        In [-1, 1]; 0 where a map is constant, and so has no order.

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

    in one window over the whole map: a map of 7 x 7 cells is about the size of the paper's 8 x 8 window.

    Parameters
    ----------
    one, other : ndarray of float, (h, w)
        Signed maps, any scale.

    Returns
    -------
    float
        In [-1, 1]; 1 for maps that are equal up to scale and offset.

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


def _compare(
    stages: tuple[str, ...],
    draws: NDArray[np.float32],
    trained: NDArray[np.float32],
    crops: Sequence[Callable[[NDArray[np.float32]], NDArray[np.float32]]],
    logits: NDArray[np.floating],
) -> RandomisationTest:
    """Compare maps ``(D, S, N, h, w)`` with the trained network's, ``(N, h, w)``, each cropped to its image."""
    largest = np.array([np.abs(crop(own)).max() for crop, own in zip(crops, trained, strict=True)])
    has_map = largest >= NO_MAP * np.maximum(1, np.abs(logits))
    trained = np.where(has_map[:, None, None], trained, 0)
    measured = np.flatnonzero(has_map | ~has_map.any()).tolist()

    def measure(similarity: Similarity) -> NDArray[np.float64]:
        return np.array(
            [
                [[similarity(crops[n](trained[n]), crops[n](maps[n])) for n in measured] for maps in draw]
                for draw in draws
            ]
        )

    maps = np.concatenate([trained[None], draws[0]])
    return RandomisationTest(stages, maps, has_map, measure(rank_correlation), measure(structural_similarity))
