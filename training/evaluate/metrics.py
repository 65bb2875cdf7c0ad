"""How well probabilities agree with human labels, and how sure one can be of it.

Everywhere ``labels`` is ``(N,)`` bool, true for positive; ``scores`` is ``(N,)``, higher for more positive; a score
at or over a threshold is positive.
"""

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
