"""May the network's own map be believed: randomisation, deletion and insertion over the films at hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from training.seeing.deletion import Curves, deletion_insertion
from training.seeing.look import FilmSight
from training.seeing.randomise import DRAWS, Cascade, cascade, random_network
from xray.card import Card
from xray.engine import Engine, forward_batches
from xray.engine_keras import CPU_BATCH, compile_forward

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


def check_map(network: keras.Model, card: Card, engine: Engine, sights: Sequence[FilmSight]) -> Check:
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


def forget(network: keras.Model, card: Card, sights: Sequence[FilmSight], seed: int) -> Cascade:
    """Run the cascade with a few draws of random weights on the network's own maps."""
    forward = compile_forward(network, CPU_BATCH)

    def own_maps(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = [forward(batch)[1][: place.stop - place.start] for place, batch in forward_batches(images, CPU_BATCH)]
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
