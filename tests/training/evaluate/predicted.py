"""Predictions of made-up images: groups of similar ones, probabilities with ties, studies of several images."""

import numpy as np
from numpy.typing import NDArray

from training.evaluate.predictions import Predictions

PARTS = np.array(["HAND", "LEG", "WRIST"])


def predicted(
    seed: int = 0, groups: int = 60, group_size: int = 4, study_size: int = 2, effect: float = 1.5, decimals: int = 2
) -> Predictions:
    """Make predictions whose logits share a random part within each group, so that they are not independent."""
    rng = np.random.default_rng(seed)
    n = groups * group_size
    group = np.arange(n) // group_size
    labels = rng.random(n) < 0.4
    labels[:study_size], labels[-study_size:] = True, False
    logits = np.round(rng.normal(size=n) + rng.normal(size=groups)[group] + effect * (labels - 0.5), decimals)
    return of(
        logits, labels, np.char.add("g", group.astype(str)), np.arange(n) // study_size, PARTS[group % len(PARTS)]
    )


def of(
    logits: NDArray[np.float64],
    labels: NDArray[np.bool_],
    groups: NDArray[np.str_] | None = None,
    studies: NDArray[np.int_] | None = None,
    body_parts: NDArray[np.str_] | None = None,
) -> Predictions:
    """Make predictions; by default each image is its own group and study, of an unknown body part."""
    names = np.char.add("image", np.arange(len(labels)).astype(str))
    return Predictions(
        names,
        names if studies is None else np.char.add("study", studies.astype(str)),
        names if groups is None else groups,
        np.full(len(labels), "", np.str_) if body_parts is None else body_parts,
        labels,
        np.asarray(logits, np.float64),
        1 / (1 + np.exp(-np.asarray(logits, np.float64))),
    )
