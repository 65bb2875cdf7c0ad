"""Does the probability hang on what the map points at? Deletion and insertion (Petsiuk et al. 2018)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from training.explain.grad_cam import ImageExplanation
from training.explain.randomisation import DRAWS, Cascade, cascade, random_network
from xray.network.card import Card
from xray.network.engine import Engine, padded_batches
from xray.network.keras_engine import CPU_BATCH, compile_forward

Score = Callable[[NDArray[np.uint8]], NDArray[np.floating]]

STEPS = 20
RANDOM_ORDERS = 5
BLUR = 0.05
"""Standard deviation of the blur as a share of the square's side: 11 pixels of 224, in which a fracture line drowns."""


@dataclass(frozen=True)
class Curves:
    """Probabilities of one film as T growing shares of it are taken away, or shown.

    Attributes
    ----------
    shares : ndarray of float64, (T,)
        From 0 to 1, of the film's cells.
    deletion, insertion : ndarray of float64, (T,)
        Probabilities in [0, 1], in the order of the map.
    random_deletion, random_insertion : ndarray of float64, (R, T)
        The same in R random orders.
    """

    shares: NDArray[np.float64]
    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]
    random_deletion: NDArray[np.float64]
    random_insertion: NDArray[np.float64]

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve, in [0, 1]; the lower, the better the map found what counts."""
        return self._area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve, in [0, 1]; the higher, the better."""
        return self._area(self.insertion)

    @property
    def random_deletion_area(self) -> float:
        """Mean area over the random orders, in [0, 1]."""
        return self._area(self.random_deletion.mean(axis=0))

    @property
    def random_insertion_area(self) -> float:
        """Mean area over the random orders, in [0, 1]."""
        return self._area(self.random_insertion.mean(axis=0))

    def _area(self, curve: NDArray[np.float64]) -> float:
        return float(np.trapezoid(curve, self.shares))


def deletion_insertion(
    image: NDArray[np.uint8],
    cam: NDArray[np.floating],
    score: Score,
    *,
    placement: tuple[int, int, int, int],
    seed: int,
) -> Curves:
    """Take a film's cells away in the order of its map, and show them again; compare with random orders.

    Deleted cells become the film's mean gray. For insertion the film begins blurred (Gaussian) and cells become sharp.
    Cells are those of the map, only where the film lies, in at most 20 steps.

    Parameters
    ----------
    image : ndarray of uint8, (size, size)
        A preprocessed radiograph.
    cam : ndarray of float, (h, w)
        Its map, signed; the largest value goes first.
    score : callable
        From ``uint8 (M, size, size)`` to probabilities ``(M,)`` in [0, 1].
    placement : tuple of int
        Top, left, height and width of the film in the square, pixels.
    seed : int
        Of the random orders.

    References
    ----------
    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, arXiv:1806.07421.
    """
    top, left, height, width = placement
    film = np.zeros(image.shape, np.bool_)
    film[top : top + height, left : left + width] = True
    cells = _cells(len(image), cam.shape)
    inside = np.unique(cells[film])
    rng = np.random.default_rng(seed)
    best_first = inside[np.argsort(-cam.ravel()[inside], kind="stable")]
    orders = [best_first, *(rng.permutation(inside) for _ in range(RANDOM_ORDERS))]
    counts = np.unique(np.linspace(0, len(inside), STEPS + 1).round().astype(int))

    gray = np.full_like(image, round(float(image[film].mean())))
    blurred = ndimage.gaussian_filter(image, BLUR * len(image))
    taken = np.stack([film & np.isin(cells, order[:count]) for order in orders for count in counts])
    deleted = np.where(taken, gray, image)
    inserted = np.where(film & ~taken, blurred, image)
    found = np.asarray(score(np.concatenate([deleted, inserted])), np.float64).reshape(2, len(orders), len(counts))
    return Curves(counts / len(inside), found[0, 0], found[1, 0], found[0, 1:], found[1, 1:])


def _cells(size: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Say which cell of a grid of this shape each pixel of the square lies in, ``(size, size)``."""
    rows, columns = (np.arange(size) * side // size for side in shape)
    return rows[:, None] * shape[1] + columns


SEED = 0


@dataclass(frozen=True)
class Check:
    """What was measured on N films.

    Attributes
    ----------
    seed : int
        Of the random weights and the random orders.
    cascade : Cascade
        The maps as the network forgets.
    curves : tuple of Curves
        Deletion and insertion, one a film.
    """

    seed: int
    cascade: Cascade
    curves: tuple[Curves, ...]

    @property
    def areas(self) -> NDArray[np.float64]:
        """Areas in [0, 1], ``(N, 4)``: deletion, deletion at random, insertion, insertion at random."""
        return np.array(
            [(c.deletion_area, c.random_deletion_area, c.insertion_area, c.random_insertion_area) for c in self.curves]
        )

    @property
    def verdict(self) -> str:
        """Say in a sentence what deletion and insertion came to."""
        areas = self.areas
        lower, higher = int((areas[:, 0] < areas[:, 1]).sum()), int((areas[:, 2] > areas[:, 3]).sum())
        deletion, random_deletion, insertion, random_insertion = areas.mean(axis=0)
        return (
            f"The probability falls sooner in the map's order than at random for {lower} of {len(self.curves)} films "
            f"(mean area {deletion:.3f} against {random_deletion:.3f}, lower is better), "
            f"and rises sooner for {higher} "
            f"(mean area {insertion:.3f} against {random_insertion:.3f}, higher is better)."
        )


def check_map(network: keras.Model, card: Card, engine: Engine, sights: Sequence[ImageExplanation]) -> Check:
    """Check the network's own map on films that have been looked at.

    Parameters
    ----------
    network : keras.Model
        The card's network with its weights; it has them again afterwards.
    card : Card
        For the build, the calibration and the preprocessing.
    engine : Engine
        The same package, for the many forward passes of deletion and insertion.
    sights : sequence of FilmSight
        N films.
    """
    return Check(
        SEED,
        forget(network, card, sights, SEED),
        tuple(
            deletion_insertion(
                sight.film.square,
                sight.cam,
                lambda images: card.probability(engine.infer(images).logits),
                placement=sight.film.placement,
                seed=SEED + number,
            )
            for number, sight in enumerate(sights)
        ),
    )


def forget(network: keras.Model, card: Card, sights: Sequence[ImageExplanation], seed: int) -> Cascade:
    """Run the cascade with a few draws of random weights on the network's own maps."""
    forward = compile_forward(network, CPU_BATCH)

    def own_maps(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = [forward(batch)[1][: place.stop - place.start] for place, batch in padded_batches(images, CPU_BATCH)]
        return np.concatenate(found)

    fresh = (random_network(card, seed + draw) for draw in range(DRAWS))
    return cascade(
        network,
        fresh,
        np.stack([sight.film.square for sight in sights]),
        own_maps,
        placements=[sight.film.placement for sight in sights],
        logits=[sight.logit for sight in sights],
    )
