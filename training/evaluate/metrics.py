"""Metrics of a binary classifier: ROC and precision-recall areas, rates at a threshold, choice of a threshold.

In all functions ``labels`` is ``(N,)`` bool, true for positive; ``scores`` is ``(N,)``, higher for more positive; a
score at or above a threshold is classified positive.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]

from xray.thresholds import is_positive

Labels = NDArray[np.bool_]
Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Rates:
    """Rates at one threshold.

    Attributes
    ----------
    sensitivity, specificity, accuracy : float
        Share of the positives, of the negatives and of all rows that are classified correctly, in [0, 1].
    kappa : float
        Cohen's kappa (Cohen 1960, Educational and Psychological Measurement): agreement of classification and labels
        beyond chance, in [-1, 1].
    """

    sensitivity: float
    specificity: float
    accuracy: float
    kappa: float


def auroc(labels: Labels, scores: Scores) -> float:
    """Return the area under the ROC curve, counting ties half (Hanley and McNeil 1982, Radiology).

    Raises
    ------
    ValueError
        If one of the classes is missing.
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
        If one of the classes is missing.
    """
    positives, _ = _both_classes(np.asarray(labels, np.bool_))
    true_positives, flagged, _ = _counts_by_threshold(labels, scores)
    recall_steps = np.diff(true_positives, prepend=0) / positives
    return float((recall_steps * true_positives / flagged).sum())


def rates(labels: Labels, scores: Scores, threshold: float) -> Rates:
    """Return sensitivity, specificity, accuracy and Cohen's kappa at a threshold.

    Raises
    ------
    ValueError
        If one of the classes is missing.
    """
    labels = np.asarray(labels, np.bool_)
    _both_classes(labels)
    flagged = is_positive(np.asarray(scores, np.float64), threshold)
    accuracy = float((flagged == labels).mean())
    by_chance = float(flagged.mean() * labels.mean() + (~flagged).mean() * (~labels).mean())
    return Rates(
        sensitivity=float(flagged[labels].mean()),
        specificity=float((~flagged[~labels]).mean()),
        accuracy=accuracy,
        kappa=(accuracy - by_chance) / (1 - by_chance),
    )


def youden_threshold(labels: Labels, scores: Scores) -> float:
    """Return the score that as a threshold gives the largest sensitivity + specificity (Youden 1950, Cancer).

    Raises
    ------
    ValueError
        If one of the classes is missing.
    """
    positives, negatives = _both_classes(np.asarray(labels, np.bool_))
    true_positives, flagged, thresholds = _counts_by_threshold(labels, scores)
    return float(thresholds[np.argmax(true_positives / positives - (flagged - true_positives) / negatives)])


def sensitivity_threshold(labels: Labels, scores: Scores, least: float) -> float:
    """Return the highest score that as a threshold gives at least this sensitivity.

    Parameters
    ----------
    labels, scores : ndarray, (N,)
        As in all functions of this module.
    least : float
        Sensitivity, in (0, 1].

    Raises
    ------
    ValueError
        If one of the classes is missing, or the sensitivity is not in (0, 1].
    """
    positives, _ = _both_classes(np.asarray(labels, np.bool_))
    if not 0 < least <= 1:
        raise ValueError(f"the sensitivity must be over 0 and at most 1, and is {least}")
    true_positives, _, thresholds = _counts_by_threshold(labels, scores)
    return float(thresholds[np.argmax(true_positives / positives >= least)])


def _both_classes(labels: Labels) -> tuple[int, int]:
    positives = int(labels.sum())
    if not 0 < positives < len(labels):
        raise ValueError("metrics need both classes")
    return positives, len(labels) - positives


def _counts_by_threshold(
    labels: Labels, scores: Scores
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
    """Return, with each distinct score as threshold, true positives and rows flagged; and the scores, highest first."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    ordered = np.asarray(scores)[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    true_positives = np.cumsum(np.asarray(labels, np.int64)[order])[last_of_ties]
    return true_positives, last_of_ties + 1, ordered[last_of_ties]
