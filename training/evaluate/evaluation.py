"""Evaluation of predictions against human labels: per image, per study and by body part, with intervals."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from training.data.dataset import UPPER_LIMB
from training.evaluate.bootstrap import (
    RANKING_METRICS,
    REPEATS,
    SEED,
    THRESHOLD_METRICS,
    WeightedMetrics,
    percentile_interval,
    resample_groups,
)
from training.evaluate.calibration import CalibrationSummary, Temperature, best_temperature, summarise_calibration
from training.evaluate.metrics import auroc, average_precision, rates
from training.evaluate.predictions import Predictions, in_scope
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
ALL, UPPER_LIMB_NAME, UNKNOWN_PART = "all", "upper limb", "unknown body part"
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


@dataclass(frozen=True)
class Level:
    """The evaluation of images, or of studies.

    Attributes
    ----------
    thresholds : tuple of Threshold
        Each population is measured at each of them.
    populations : tuple of Population
        ``"all"`` first.
    calibration : CalibrationSummary
        How well probabilities agree with labels.
    """

    thresholds: tuple[Threshold, ...]
    populations: tuple[Population, ...]
    calibration: CalibrationSummary


@dataclass(frozen=True)
class Evaluation:
    """All that was measured.

    Attributes
    ----------
    images, studies : Level
        Per image, and per study (:meth:`training.evaluate.predictions.Predictions.by_study`).
    one_image_a_study : bool
        Whether each study is a single image: at the same thresholds both levels are then the same.
    temperature : Temperature or None
        The temperature that fits the images' logits best; None where none does: they have one class only, separate the
        classes perfectly, or rank them the wrong way round.
    out_of_scope : tuple of Population
        Images of body parts that the model does not know, by body part; no other number includes them.
    """

    images: Level
    studies: Level
    one_image_a_study: bool
    temperature: Temperature | None
    out_of_scope: tuple[Population, ...]

    @property
    def studies_repeat_images(self) -> bool:
        """Whether the numbers of studies are those of images."""
        return self.one_image_a_study and self.studies.populations == self.images.populations


def evaluate(
    predictions: Predictions,
    image_thresholds: Sequence[Threshold],
    study_thresholds: Sequence[Threshold],
    *,
    scope: Collection[str] | None = None,
    repeats: int = REPEATS,
    seed: int = SEED,
) -> Evaluation:
    """Evaluate predictions against their labels.

    Parameters
    ----------
    predictions : Predictions
        N rows, one an image, at least one in scope.
    image_thresholds, study_thresholds : sequence of Threshold
        Thresholds on images' probabilities and on studies' scores.
    scope : collection of str or None
        Body parts that the model knows; images of others are left out before studies are scored. None is for all.
    repeats, seed : int
        Resamples of the bootstrap, and its seed.
    """
    inside = in_scope(predictions, scope)
    images, outside = predictions.select(inside), predictions.select(~inside)
    studies = images.by_study()
    one_image_a_study = len(studies) == len(images)
    image_level = _level(images, image_thresholds, repeats, seed)
    # A second bootstrap of the same rows would give the same numbers.
    same = one_image_a_study and [t.value for t in image_thresholds] == [t.value for t in study_thresholds]
    populations = image_level.populations if same else _populations(studies, study_thresholds, repeats, seed)
    return Evaluation(
        image_level,
        Level(tuple(study_thresholds), populations, summarise_calibration(studies)),
        one_image_a_study,
        best_temperature(images),
        tuple(
            _population(part, outside.select(outside.body_parts == part), image_thresholds, repeats, seed)
            for part in np.unique(outside.body_parts).tolist()
        ),
    )


def _level(rows: Predictions, thresholds: Sequence[Threshold], repeats: int, seed: int) -> Level:
    return Level(tuple(thresholds), _populations(rows, thresholds, repeats, seed), summarise_calibration(rows))


def _populations(rows: Predictions, thresholds: Sequence[Threshold], repeats: int, seed: int) -> tuple[Population, ...]:
    chosen = [(ALL, np.ones(len(rows), np.bool_))]
    upper = np.isin(rows.body_parts, list(UPPER_LIMB))
    if 0 < upper.sum() < len(rows):
        chosen.append((UPPER_LIMB_NAME, upper))
    parts = np.unique(rows.body_parts).tolist()
    if len(parts) > 1:
        chosen += [(part or UNKNOWN_PART, rows.body_parts == part) for part in parts]
    return tuple(_population(name, rows.select(keep), thresholds, repeats, seed) for name, keep in chosen)


def _population(name: str, rows: Predictions, thresholds: Sequence[Threshold], repeats: int, seed: int) -> Population:
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
