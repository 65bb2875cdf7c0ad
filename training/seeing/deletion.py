"""Does the probability hang on what the map points at? Deletion and insertion (Petsiuk et al. 2018)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

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
