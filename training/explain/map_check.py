"""Check of a network's class activation map: cascading randomisation, and deletion and insertion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from training.explain.grad_cam import ImageExplanation
from training.explain.randomisation import (
    DRAWS,
    RandomisationTest,
    network_stages,
    random_network,
    randomise_in_cascade,
)
from training.progress import Progress
from xray.network.card import Card
from xray.network.engine import Engine, padded_batches
from xray.network.keras_engine import CPU_BATCH, compile_forward
from xray.vocabulary import count

Score = Callable[[NDArray[np.uint8]], NDArray[np.floating]]

STEPS = 20
RANDOM_ORDERS = 5
BLUR = 0.05
"""Standard deviation of the blur as a share of the square's side: 11 pixels of 224, enough to hide a fracture line."""
SEED = 0


@dataclass(frozen=True)
class Curves:
    """Probabilities for one image as T growing shares of it are deleted, or inserted.

    Attributes
    ----------
    shares : ndarray of float64, (T,)
        Shares of the image's cells, from 0 to 1.
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
        """Area under the deletion curve, in [0, 1]; lower is better."""
        return self._area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve, in [0, 1]; higher is better."""
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
    image_box: tuple[int, int, int, int],
    seed: int,
) -> Curves:
    """Delete the cells of an image in the order of its map, and insert them again; compare with random orders.

    Deleted cells become the image's mean gray. Insertion starts from the blurred image (Gaussian), and cells become
    sharp. Cells are those of the map that overlap the image, in at most 20 steps.

    Parameters
    ----------
    image : ndarray of uint8, (size, size)
        A preprocessed radiograph.
    cam : ndarray of float, (h, w)
        Its map, signed; the largest value comes first.
    score : callable
        From ``uint8 (M, size, size)`` to probabilities ``(M,)`` in [0, 1].
    image_box : tuple of int
        Top, left, height and width of the image in the square, pixels.
    seed : int
        Seed of the random orders.

    References
    ----------
    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, arXiv:1806.07421.
    """
    top, left, height, width = image_box
    inside = np.zeros(image.shape, np.bool_)
    inside[top : top + height, left : left + width] = True
    cells = _cells(len(image), cam.shape)
    own_cells = np.unique(cells[inside])
    rng = np.random.default_rng(seed)
    best_first = own_cells[np.argsort(-cam.ravel()[own_cells], kind="stable")]
    orders = [best_first, *(rng.permutation(own_cells) for _ in range(RANDOM_ORDERS))]
    counts = np.unique(np.linspace(0, len(own_cells), STEPS + 1).round().astype(int))

    gray = np.full_like(image, round(float(image[inside].mean())))
    blurred = ndimage.gaussian_filter(image, BLUR * len(image))
    changed = np.stack([inside & np.isin(cells, order[:number]) for order in orders for number in counts])
    deleted = np.where(changed, gray, image)
    inserted = np.where(inside & ~changed, blurred, image)
    scores = np.asarray(score(np.concatenate([deleted, inserted])), np.float64).reshape(2, len(orders), len(counts))
    return Curves(counts / len(own_cells), scores[0, 0], scores[1, 0], scores[0, 1:], scores[1, 1:])


def _cells(size: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the number of the cell, in a grid of this shape, of each pixel of the square, ``(size, size)``."""
    rows, columns = (np.arange(size) * side // size for side in shape)
    return rows[:, None] * shape[1] + columns


@dataclass(frozen=True)
class MapCheck:
    """Results of the checks on N images.

    Attributes
    ----------
    seed : int
        Seed of the random weights and the random orders.
    randomisation : RandomisationTest
        How the maps change as the network is randomised.
    curves : tuple of Curves
        Deletion and insertion, one for each image.
    """

    seed: int
    randomisation: RandomisationTest
    curves: tuple[Curves, ...]

    @property
    def areas(self) -> NDArray[np.float64]:
        """Areas in [0, 1], ``(N, 4)``: deletion, random deletion, insertion, random insertion."""
        return np.array(
            [(c.deletion_area, c.random_deletion_area, c.insertion_area, c.random_insertion_area) for c in self.curves]
        )

    @property
    def conclusion(self) -> str:
        """The result of deletion and insertion in a sentence."""
        areas = self.areas
        lower, higher = int((areas[:, 0] < areas[:, 1]).sum()), int((areas[:, 2] > areas[:, 3]).sum())
        deletion, random_deletion, insertion, random_insertion = areas.mean(axis=0)
        return (
            f"Deletion in the map's order lowers the probability sooner than in random order for {lower} of "
            f"{count(len(self.curves), 'image')} (mean area {deletion:.3f}, random {random_deletion:.3f}; lower is "
            f"better); insertion raises it sooner for {higher} "
            f"(mean area {insertion:.3f}, random {random_insertion:.3f}; higher is better)."
        )


def check_map(
    network: keras.Model, card: Card, engine: Engine, explanations: Sequence[ImageExplanation], progress: Progress
) -> MapCheck:
    """Check the network's own map on images that were explained.

    Parameters
    ----------
    network : keras.Model
        The card's network with its weights; they are restored afterwards.
    card : Card
        For the architecture, the calibration and the preprocessing.
    engine : Engine
        The same package, for the many forward passes of deletion and insertion.
    explanations : sequence of ImageExplanation
        N images.
    progress : Progress
        Shows progress bars.
    """
    randomisation = _randomisation_test(network, card, explanations, SEED, progress)
    curves = []
    with progress.bar("deleting and inserting", len(explanations)) as advance:
        for number, explanation in enumerate(explanations):
            curves.append(
                deletion_insertion(
                    explanation.image.square,
                    explanation.cam,
                    lambda images: card.probability(engine.infer(images).logits),
                    image_box=explanation.image.image_box,
                    seed=SEED + number,
                )
            )
            advance(1)
    return MapCheck(SEED, randomisation, tuple(curves))


def _randomisation_test(
    network: keras.Model, card: Card, explanations: Sequence[ImageExplanation], seed: int, progress: Progress
) -> RandomisationTest:
    """Test the network's own maps with a few draws of random weights."""
    forward = compile_forward(network, CPU_BATCH)
    # The maps of the trained network, and in each draw those of each stage.
    passes = 1 + DRAWS * len(network_stages(network))
    with progress.bar("randomising the network", passes * len(explanations)) as advance:

        def own_maps(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            maps = []
            for place, batch in padded_batches(images, CPU_BATCH):
                maps.append(forward(batch)[1][: place.stop - place.start])
                advance(len(maps[-1]))
            return np.concatenate(maps)

        return randomise_in_cascade(
            network,
            (random_network(card, seed + draw) for draw in range(DRAWS)),
            np.stack([explanation.image.square for explanation in explanations]),
            own_maps,
            image_boxes=[explanation.image.image_box for explanation in explanations],
            logits=[explanation.logit for explanation in explanations],
        )
