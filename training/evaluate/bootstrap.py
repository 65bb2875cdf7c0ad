"""Bootstrap confidence intervals from resamples of whole groups, for all metrics at once.

A resample is a weight for each row: how often its group was drawn. Scores are sorted once, and each metric of each
resample is a weighted cumulative sum over them: 40,000 images take seconds, where drawing rows takes hours.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPEATS = 2000
SEED = 0
RANKING_METRICS = ("auroc", "average_precision")
THRESHOLD_METRICS = ("sensitivity", "specificity", "accuracy", "kappa")

Weights = NDArray[np.int32]

_WEIGHTS_AT_ONCE = 200_000
"""Weights in one array, few enough for a processor's cache."""


class WeightedMetrics:
    """One model's scores of N rows, sorted once, from which metrics are computed under any number of weightings.

    Parameters
    ----------
    labels : ndarray of bool, (N,)
        Human labels.
    scores : ndarray of float64, (N,)
        Higher for more positive.
    thresholds : sequence of float
        T thresholds; a score at or above one is classified positive.
    """

    def __init__(self, labels: NDArray[np.bool_], scores: NDArray[np.float64], thresholds: Sequence[float]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._positive = labels[self._order]
        last_of_ties = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
        # A slice copies nothing, and most scores have no ties.
        self._distinct: Any = last_of_ties if len(last_of_ties) < len(ordered) else slice(None)
        # How many rows, from the highest score down, are classified positive.
        self._flagged = [int(np.searchsorted(-ordered, -threshold, side="right")) for threshold in thresholds]

    def compute(self, weights: Weights) -> NDArray[np.float64]:
        """Compute `RANKING_METRICS`, then `THRESHOLD_METRICS` at each threshold, under R weightings.

        Parameters
        ----------
        weights : ndarray of int32, (R, N)
            How often each row counts; each weighting has both classes.

        Returns
        -------
        ndarray of float64, (R, 2 + 4 T)
            In [0, 1], kappa in [-1, 1].
        """
        drawn = weights[:, self._order]
        rows = np.cumsum(drawn, axis=1, dtype=np.int32)
        positives = np.cumsum(drawn * self._positive, axis=1, dtype=np.int32)
        ranking = self._ranking(positives[:, self._distinct], rows[:, self._distinct])
        return np.concatenate([ranking, *(self._rates(positives, rows, flagged) for flagged in self._flagged)], axis=1)

    def _ranking(self, true_positives: Weights, flagged: Weights) -> NDArray[np.float64]:
        """Compute from the positives and rows at or above each distinct score, ``(R, K)``, highest score first."""
        positives, negatives = true_positives[:, -1].astype(float), (flagged - true_positives)[:, -1].astype(float)
        new_positives = np.diff(true_positives, prepend=np.int32(0), axis=1)
        new_negatives = np.diff(flagged, prepend=np.int32(0), axis=1) - new_positives
        # A pair is ordered correctly where the positive is above the negative, and half correctly where they tie.
        ordered_pairs = np.einsum("rk,rk->r", new_negatives, 2 * true_positives - new_positives, dtype=float)
        # Where the rows at the top were not drawn, nothing is flagged yet and the step adds nothing.
        precision = np.einsum("rk,rk->r", new_positives, true_positives / np.maximum(flagged, 1))
        return np.stack([ordered_pairs / (2 * positives * negatives), precision / positives], axis=1)

    def _rates(self, positives_above: Weights, rows_above: Weights, count: int) -> NDArray[np.float64]:
        """Compute rates where the `count` highest scores are classified positive."""
        rows, positives = rows_above[:, -1].astype(float), positives_above[:, -1].astype(float)
        none = np.zeros(len(rows))
        true_positives, flagged = (positives_above[:, count - 1], rows_above[:, count - 1]) if count else (none, none)
        true_negatives = rows - positives - (flagged - true_positives)
        accuracy = (true_positives + true_negatives) / rows
        by_chance = (flagged * positives + (rows - flagged) * (rows - positives)) / rows**2
        kappa = (accuracy - by_chance) / (1 - by_chance)
        return np.stack([true_positives / positives, true_negatives / (rows - positives), accuracy, kappa], axis=1)


def resample_groups(
    labels: NDArray[np.bool_], groups: NDArray[np.generic], *, repeats: int = REPEATS, seed: int = SEED
) -> Iterator[Weights]:
    """Draw as many groups as there are, with replacement (Field and Welsh 2007, JRSS B), `repeats` times.

    Parameters
    ----------
    labels : ndarray of bool, (N,)
        Human labels; a resample without both classes is drawn again.
    groups : ndarray, (N,)
        The group of each row.
    repeats : int
        Number of resamples.
    seed : int
        Seed of the draws.

    Yields
    ------
    ndarray of int32, (R, N)
        How often each row counts in the next R resamples; the R add up to `repeats`.

    Raises
    ------
    ValueError
        If `repeats` resamples with both classes are not found in ten times as many draws.
    """
    rng = np.random.default_rng(seed)
    _, inverse = np.unique(groups, return_inverse=True)
    count = int(inverse.max()) + 1
    sizes, positives = np.bincount(inverse, minlength=count), np.bincount(inverse[labels], minlength=count)
    chunk: list[Weights] = []
    chunk_size, made = max(1, _WEIGHTS_AT_ONCE // len(labels)), 0
    for _ in range(10 * repeats):
        drawn = np.bincount(rng.integers(0, count, count), minlength=count)
        if not 0 < drawn @ positives < drawn @ sizes:
            continue
        chunk.append(drawn.astype(np.int32))
        made += 1
        if len(chunk) == chunk_size or made == repeats:
            yield np.stack(chunk)[:, inverse]
            chunk = []
        if made == repeats:
            return
    raise ValueError("too few resamples have both classes")


def resample_means(
    values: NDArray[np.float64], groups: NDArray[np.generic], *, repeats: int = REPEATS, seed: int = SEED
) -> NDArray[np.float64]:
    """Return the means of values over as many groups as there are, drawn with replacement, `repeats` times.

    Parameters
    ----------
    values : ndarray of float64, (N, M)
        M values of each row.
    groups : ndarray, (N,)
        The group of each row.
    repeats, seed : int
        Number of resamples, and the seed of the draws.

    Returns
    -------
    ndarray of float64, (repeats, M)
    """
    rng = np.random.default_rng(seed)
    _, inverse = np.unique(groups, return_inverse=True)
    count = int(inverse.max()) + 1
    sums = np.stack([np.bincount(inverse, column, count) for column in values.T], axis=1)
    sizes = np.bincount(inverse, minlength=count)
    means = np.empty((repeats, values.shape[1]))
    for mean in means:
        drawn = np.bincount(rng.integers(0, count, count), minlength=count)
        mean[:] = drawn @ sums / (drawn @ sizes)
    return means


def percentile_interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 2.5th and the 97.5th percentile of R resamples of M metrics ``(R, M)``, each ``(M,)``."""
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    return low, high
