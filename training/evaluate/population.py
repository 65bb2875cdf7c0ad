"""Metrics of rows that are measured together, against human labels, with 95 % intervals from whole groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate.bootstrap import (
    RANKING_METRICS,
    REPEATS,
    SEED,
    THRESHOLD_METRICS,
    WeightedMetrics,
    percentile_interval,
    resample_groups,
)
from training.evaluate.metrics import auroc, average_precision, rates
from training.evaluate.predictions import Predictions
from xray.network.card import Threshold
from xray.thresholds import is_positive

METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "kappa": "Cohen's kappa",
}
FEWEST_GROUPS = 5
"""Groups of each class that an interval needs: with fewer, its ends are single groups drawn repeatedly."""


@dataclass(frozen=True)
class Estimate:
    """A measured number, with its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> str:
        """The interval as text."""
        return "no interval" if self.low is None else f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True)
class AtThreshold:
    """Classification at one threshold; the estimates are None where the population has one class only."""

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    sensitivity: Estimate | None
    specificity: Estimate | None
    accuracy: Estimate | None
    kappa: Estimate | None


@dataclass(frozen=True)
class Population:
    """Rows that are measured together.

    Attributes
    ----------
    name : str
        ``"all"``, ``"upper limb"``, a body part, or ``"unknown body part"``.
    n, positives, groups : int
        Number of rows, of positive ones, and of groups among them.
    auroc, average_precision : Estimate or None
        None where the population has one class only.
    at : tuple of AtThreshold
        One for each threshold of its level.
    missing : str or None
        Why numbers or intervals are missing.
    """

    name: str
    n: int
    positives: int
    groups: int
    auroc: Estimate | None
    average_precision: Estimate | None
    at: tuple[AtThreshold, ...]
    missing: str | None


def measure_population(
    name: str, rows: Predictions, thresholds: Sequence[Threshold], *, repeats: int = REPEATS, seed: int = SEED
) -> Population:
    """Measure rows together.

    Parameters
    ----------
    name : str
        What they are called.
    rows : Predictions
        At least one, each an image or a study.
    thresholds : sequence of Threshold
        They are classified at each.
    repeats, seed : int
        Resamples of the bootstrap, and its seed.
    """
    values = [threshold.value for threshold in thresholds]
    missing = _missing(rows)
    area, precision, *rates_at = _estimates(rows, values, missing is None, repeats, seed)
    count = len(THRESHOLD_METRICS)
    return Population(
        name=name,
        n=len(rows),
        positives=int(rows.labels.sum()),
        groups=len(np.unique(rows.groups)),
        auroc=area,
        average_precision=precision,
        at=tuple(_at_threshold(rows, value, rates_at[count * i : count * (i + 1)]) for i, value in enumerate(values)),
        missing=missing,
    )


def _missing(rows: Predictions) -> str | None:
    """Say why numbers or intervals cannot be computed; None where all can."""
    positives, negatives = (len(np.unique(rows.groups[rows.labels == label])) for label in (True, False))
    if not positives or not negatives:
        return f"all are {'positive' if positives else 'negative'}: both classes are needed"
    if min(positives, negatives) < FEWEST_GROUPS:
        return (
            f"no intervals: positives are in {positives} group{'s' * (positives != 1)} and negatives in {negatives}, "
            f"and {FEWEST_GROUPS} of each are needed"
        )
    return None


def _estimates(
    rows: Predictions, thresholds: Sequence[float], with_intervals: bool, repeats: int, seed: int
) -> list[Estimate | None]:
    """Return `RANKING_METRICS`, and `THRESHOLD_METRICS` at each threshold."""
    labels, scores = rows.labels, rows.probabilities
    if not 0 < labels.sum() < len(labels):
        return [None] * (len(RANKING_METRICS) + len(THRESHOLD_METRICS) * len(thresholds))
    values = [auroc(labels, scores), average_precision(labels, scores)]
    for threshold in thresholds:
        at = rates(labels, scores, threshold)
        values += [at.sensitivity, at.specificity, at.accuracy, at.kappa]
    if not with_intervals:
        return [Estimate(value) for value in values]
    metrics = WeightedMetrics(labels, scores, thresholds)
    resamples = resample_groups(labels, rows.groups, repeats=repeats, seed=seed)
    lows, highs = percentile_interval(np.concatenate([metrics.compute(weights) for weights in resamples]))
    # Where all resamples give the same, as for a sensitivity of 1, the bootstrap has no interval to offer.
    return [
        Estimate(value, float(low), float(high)) if low < high else Estimate(value)
        for value, low, high in zip(values, lows, highs, strict=True)
    ]


def _at_threshold(rows: Predictions, threshold: float, estimates: Sequence[Estimate | None]) -> AtThreshold:
    flagged, labels = is_positive(rows.probabilities, threshold), rows.labels
    sensitivity, specificity, accuracy, kappa = estimates
    return AtThreshold(
        threshold=threshold,
        true_positives=int((flagged & labels).sum()),
        false_positives=int((flagged & ~labels).sum()),
        false_negatives=int((~flagged & labels).sum()),
        true_negatives=int((~flagged & ~labels).sum()),
        sensitivity=sensitivity,
        specificity=specificity,
        accuracy=accuracy,
        kappa=kappa,
    )
