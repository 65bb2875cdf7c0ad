"""How well probabilities agree with human labels, and how sure one can be of it.

Everywhere ``labels`` is ``(N,)`` bool, true for positive; ``scores`` is ``(N,)``, higher for more positive; a score
at or over a threshold is positive.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]

Labels = NDArray[np.bool_]
Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Rates:
    """Rates at one threshold, each in [0, 1]; and how far accuracy is beyond chance, in [-1, 1].

    Attributes
    ----------
    sensitivity, specificity, accuracy : float
        Shares of the positives, the negatives and all that are called right.
    kappa : float
        Cohen's kappa (Cohen 1960, Educational and Psychological Measurement) of calls and labels.
    """

    sensitivity: float
    specificity: float
    accuracy: float
    kappa: float


def auroc(labels: Labels, scores: Scores) -> float:
    """Return the area under the ROC curve, ties counted half (Hanley and McNeil 1982, Radiology).

    Raises
    ------
    ValueError
        If there are not both classes.
    """
    labels = np.asarray(labels, np.bool_)
    positives, negatives = _both_classes(labels)
    rank_sum = float(rankdata(scores)[labels].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(labels: Labels, scores: Scores) -> float:
    """Return average precision: the step-wise area under the precision-recall curve, without interpolation.

    Raises
    ------
    ValueError
        If there are not both classes.
    """
    positives, _ = _both_classes(np.asarray(labels, np.bool_))
    hits, calls, _ = _counts_by_threshold(labels, scores)
    gained = np.diff(hits, prepend=0) / positives
    return float((gained * hits / calls).sum())


def rates(labels: Labels, scores: Scores, threshold: float) -> Rates:
    """Return sensitivity, specificity, accuracy and Cohen's kappa at a threshold.

    Raises
    ------
    ValueError
        If there are not both classes.
    """
    labels = np.asarray(labels, np.bool_)
    _both_classes(labels)
    called = np.asarray(scores) >= threshold
    accuracy = float((called == labels).mean())
    by_chance = float(called.mean() * labels.mean() + (~called).mean() * (~labels).mean())
    return Rates(
        sensitivity=float(called[labels].mean()),
        specificity=float((~called[~labels]).mean()),
        accuracy=accuracy,
        kappa=(accuracy - by_chance) / (1 - by_chance),
    )


def youden_threshold(labels: Labels, scores: Scores) -> float:
    """Return the score whose use as threshold has the largest sensitivity + specificity (Youden 1950, Cancer).

    Raises
    ------
    ValueError
        If there are not both classes.
    """
    positives, negatives = _both_classes(np.asarray(labels, np.bool_))
    hits, calls, thresholds = _counts_by_threshold(labels, scores)
    return float(thresholds[np.argmax(hits / positives - (calls - hits) / negatives)])


def sensitivity_threshold(labels: Labels, scores: Scores, aim: float) -> float:
    """Return the highest score whose use as threshold has at least this sensitivity.

    Parameters
    ----------
    labels, scores : ndarray, (N,)
        As everywhere in this module.
    aim : float
        Sensitivity, in (0, 1].

    Raises
    ------
    ValueError
        If there are not both classes, or the aim is not in (0, 1].
    """
    positives, _ = _both_classes(np.asarray(labels, np.bool_))
    if not 0 < aim <= 1:
        raise ValueError(f"a sensitivity of {aim} cannot be aimed at")
    hits, _, thresholds = _counts_by_threshold(labels, scores)
    return float(thresholds[np.argmax(hits / positives >= aim)])


def group_interval(
    statistic: Callable[[NDArray[np.intp]], float], groups: NDArray[np.generic], *, repeats: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % percentile interval from a bootstrap that draws whole groups (Field and Welsh 2007, JRSS B).

    Images of one group are not independent; drawing images one by one would make the interval too narrow.

    Parameters
    ----------
    statistic : callable
        From indices into the data to a number; a resample without both classes, on which it raises ValueError, is
        drawn again.
    groups : ndarray, (N,)
        The group of each image.
    repeats : int
        Resamples.
    seed : int
        Of the random draws.

    Returns
    -------
    tuple of float
        The 2.5th and 97.5th percentile.

    Raises
    ------
    ValueError
        If ten resamples for each wanted one have not sufficed.
    """
    rng = np.random.default_rng(seed)
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    values: list[float] = []
    for _ in range(10 * repeats):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        try:
            values.append(statistic(drawn))
        except ValueError:
            continue
        if len(values) == repeats:
            low, high = np.percentile(values, [2.5, 97.5])
            return float(low), float(high)
    raise ValueError("too few resamples have both classes")


def _both_classes(labels: Labels) -> tuple[int, int]:
    positives = int(labels.sum())
    if not 0 < positives < len(labels):
        raise ValueError("metrics need both classes")
    return positives, len(labels) - positives


def _counts_by_threshold(
    labels: Labels, scores: Scores
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
    """Return true positives and all positives called at each distinct score, highest score first."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    ordered = np.asarray(scores)[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(np.asarray(labels, np.int64)[order])[last_of_ties]
    return hits, last_of_ties + 1, ordered[last_of_ties]
