"""What a model package's network says of a data set's images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.dataset import Dataset
from training.predictions import Predictions
from xray.card import Card
from xray.engine import Engine

CHUNK = 64


def infer_predictions(
    engine: Engine, card: Card, dataset: Dataset, images: NDArray[np.uint8], step: Callable[[int], None]
) -> Predictions:
    """Run a network over images, with probabilities as its card makes them of logits.

    Parameters
    ----------
    engine : Engine
        Holds the network.
    card : Card
        Its package's card.
    dataset : Dataset
        The N examples.
    images : ndarray of uint8, (N, size, size)
        Their images, as the card's preprocessing makes them.
    step : callable
        Called with how many images were done since.
    """
    logits = np.empty(len(images), np.float64)
    for start in range(0, len(images), CHUNK):
        chunk = np.ascontiguousarray(images[start : start + CHUNK])
        logits[start : start + len(chunk)] = engine.infer(chunk).logits
        step(len(chunk))
    return Predictions.of(dataset, logits, card.probability(logits))
