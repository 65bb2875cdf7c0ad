"""Intervals from resamples of whole groups, for every measure at once.

A resample is a weight for each row: how often its group was drawn. Scores are sorted once, and every measure of every
resample is a weighted cumulative sum over them, so that 40,000 images take seconds where drawing rows takes hours.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPEATS = 2000
SEED = 0
RANKING = ("auroc", "average_precision")
RATES = ("sensitivity", "specificity", "accuracy", "kappa")

Weights = NDArray[np.int32]

_CELLS = 200_000
"""Weights held at a time, so that they stay in a processor's cache."""


class Ranked:
    """One model's scores of N rows, sorted once, measured under any number of weightings.

    Parameters
    ----------
    labels : ndarray of bool, (N,)
        Human labels.
    scores : ndarray of float64, (N,)
        Higher for more positive.
    thresholds : sequence of float
        T of them; a score at or over one is positive.
    """

    def __init__(self, labels: NDArray[np.bool_], scores: NDArray[np.float64], thresholds: Sequence[float]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._positive = labels[self._order]
        last_of_ties = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
        # slicing copies nothing, and most scores have no ties
        self._distinct: Any = last_of_ties if len(last_of_ties) < len(ordered) else slice(None)
        # how many rows, from the highest score down, are called positive
        self._called = [int(np.searchsorted(-ordered, -threshold, side="right")) for threshold in thresholds]

    def measure(self, weights: Weights) -> NDArray[np.float64]:
        """Return ``(R, 2 + 4 T)``: `RANKING`, then `RATES` at each threshold, under R weightings.

        Parameters
        ----------
        weights : ndarray of int32, (R, N)
            How often each row counts; each weighting has both classes.
        """
        drawn = weights[:, self._order]
        calls = np.cumsum(drawn, axis=1, dtype=np.int32)
        hits = np.cumsum(drawn * self._positive, axis=1, dtype=np.int32)
        ranking = self._ranking(hits[:, self._distinct], calls[:, self._distinct])
        return np.concatenate([ranking, *(self._rates(hits, calls, called) for called in self._called)], axis=1)

    def _ranking(self, hits: Weights, calls: Weights) -> NDArray[np.float64]:
        """Measure from the positives and rows at or over each distinct score, ``(R, K)``, highest score first."""
        positives, negatives = hits[:, -1].astype(float), (calls - hits)[:, -1].astype(float)
        gained = np.diff(hits, prepend=np.int32(0), axis=1)
        false = np.diff(calls, prepend=np.int32(0), axis=1) - gained
        # a negative loses to the positives above it, and half to those it ties with
        won = np.einsum("rk,rk->r", false, 2 * hits - gained, dtype=float)
        # rows not drawn at the top: nothing is called, and nothing gained
        precision = np.einsum("rk,rk->r", gained, hits / np.maximum(calls, 1))
        return np.stack([won / (2 * positives * negatives), precision / positives], axis=1)

    def _rates(self, hits: Weights, calls: Weights, called: int) -> NDArray[np.float64]:
        rows, positives = calls[:, -1].astype(float), hits[:, -1].astype(float)
        none = np.zeros(len(rows))
        true, flagged = (hits[:, called - 1], calls[:, called - 1]) if called else (none, none)
        kept = rows - positives - (flagged - true)
        accuracy = (true + kept) / rows
        by_chance = (flagged * positives + (rows - flagged) * (rows - positives)) / rows**2
        kappa = (accuracy - by_chance) / (1 - by_chance)
        return np.stack([true / positives, kept / (rows - positives), accuracy, kappa], axis=1)


def draw_groups(
    labels: NDArray[np.bool_], groups: NDArray[np.generic], *, repeats: int = REPEATS, seed: int = SEED
) -> Iterator[Weights]:
    """Draw as many groups as there are, with replacement (Field and Welsh 2007, JRSS B), again and again.

    The draws are those of :func:`tests.group_interval.group_interval` with the same seed.

    Parameters
    ----------
    labels : ndarray of bool, (N,)
        Human labels; a resample without both classes is drawn again.
    groups : ndarray, (N,)
        The group of each row.
    repeats : int
        Resamples.
    seed : int
        Of the draws.

    Yields
    ------
    ndarray of int32, (R, N)
        How often each row counts, for the next R resamples; `repeats` in all.

    Raises
    ------
    ValueError
        If ten draws for each wanted resample have not sufficed.
    """
    rng = np.random.default_rng(seed)
    _, inverse = np.unique(groups, return_inverse=True)
    count = int(inverse.max()) + 1
    sizes, positives = np.bincount(inverse, minlength=count), np.bincount(inverse[labels], minlength=count)
    chunk: list[Weights] = []
    room, found = max(1, _CELLS // len(labels)), 0
    for _ in range(10 * repeats):
        drawn = np.bincount(rng.integers(0, count, count), minlength=count)
        if not 0 < drawn @ positives < drawn @ sizes:
            continue
        chunk.append(drawn.astype(np.int32))
        found += 1
        if len(chunk) == room or found == repeats:
            yield np.stack(chunk)[:, inverse]
            chunk = []
        if found == repeats:
            return
    raise ValueError("too few resamples have both classes")


def interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 2.5th and the 97.5th percentile of R resamples, ``(R, M)``, each ``(M,)``."""
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    return low, high
