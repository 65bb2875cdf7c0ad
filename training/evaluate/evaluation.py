"""Measure predictions against human labels: images and studies, all of them and by body part, with intervals."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from training.data.dataset import UPPER_LIMB
from training.evaluate.bootstrap import REPEATS, SEED, Ranked, draw_groups, interval
from training.evaluate.calibration import Agreement, Temperature, agreement, best_temperature
from training.evaluate.metrics import auroc, average_precision, rates
from training.evaluate.predictions import Predictions, in_scope
from xray.network.card import Threshold

ALL, UPPER, UNKNOWN = "all", "upper limb", "unknown body part"
FEWEST_GROUPS = 5
"""Groups of each class that an interval takes: with fewer its ends are single groups drawn again and again."""


@dataclass(frozen=True)
class Estimate:
    """A measured number, with its 95 % interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class AtThreshold:
    """What calling positive at one threshold gives; the estimates are None where the population has one class only."""

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
        Rows, positive ones, and groups they belong to.
    auroc, average_precision : Estimate or None
        None where the population has one class only.
    at : tuple of AtThreshold
        One for each threshold of its level.
    lacks : str or None
        Why numbers or intervals are missing.
    """

    name: str
    n: int
    positives: int
    groups: int
    auroc: Estimate | None
    average_precision: Estimate | None
    at: tuple[AtThreshold, ...]
    lacks: str | None


@dataclass(frozen=True)
class Level:
    """Images, or studies.

    Attributes
    ----------
    thresholds : tuple of Threshold
        What is called positive, and how it was chosen; every population is measured at each.
    populations : tuple of Population
        ``"all"`` first.
    agreement : Agreement
        Of probabilities and labels.
    """

    thresholds: tuple[Threshold, ...]
    populations: tuple[Population, ...]
    agreement: Agreement


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes
    ----------
    images, studies : Level
        Measured one by one, and by study (:meth:`training.evaluate.predictions.Predictions.by_study`).
    one_image_a_study : bool
        No study has two images, so that at the same thresholds both levels are the same.
    temperature : Temperature or None
        What would fit the images' logits best; None where none does: they have one class only, part the classes
        without error, or speak against them.
    out_of_scope : tuple of Population
        Images of body parts that the model does not know, by body part; they are in no other number.
    """

    images: Level
    studies: Level
    one_image_a_study: bool
    temperature: Temperature | None
    out_of_scope: tuple[Population, ...]

    @property
    def studies_repeat_images(self) -> bool:
        """Whether to show studies would be to show images again."""
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
    """Measure predictions on their labels.

    Parameters
    ----------
    predictions : Predictions
        N rows, one an image, at least one in scope.
    image_thresholds, study_thresholds : sequence of Threshold
        Cut-offs on images' probabilities and on studies' scores.
    scope : collection of str or None
        Body parts that the model knows; images of others are set aside, before studies are scored. None is for all.
    repeats, seed : int
        Of the bootstrap.
    """
    inside = in_scope(predictions, scope)
    images, outside = predictions.select(inside), predictions.select(~inside)
    studies = images.by_study()
    alone = len(studies) == len(images)
    image_level = _level(images, image_thresholds, repeats, seed)
    # A bootstrap of the same rows would only cost its time again.
    same = alone and [t.value for t in image_thresholds] == [t.value for t in study_thresholds]
    populations = image_level.populations if same else _populations(studies, study_thresholds, repeats, seed)
    return Evaluation(
        image_level,
        Level(tuple(study_thresholds), populations, agreement(studies)),
        alone,
        best_temperature(images),
        tuple(
            _population(part, outside.select(outside.body_parts == part), image_thresholds, repeats, seed)
            for part in np.unique(outside.body_parts).tolist()
        ),
    )


def _level(rows: Predictions, thresholds: Sequence[Threshold], repeats: int, seed: int) -> Level:
    return Level(tuple(thresholds), _populations(rows, thresholds, repeats, seed), agreement(rows))


def _populations(rows: Predictions, thresholds: Sequence[Threshold], repeats: int, seed: int) -> tuple[Population, ...]:
    chosen = [(ALL, np.ones(len(rows), np.bool_))]
    upper = np.isin(rows.body_parts, list(UPPER_LIMB))
    if 0 < upper.sum() < len(rows):
        chosen.append((UPPER, upper))
    parts = np.unique(rows.body_parts).tolist()
    if len(parts) > 1:
        chosen += [(part or UNKNOWN, rows.body_parts == part) for part in parts]
    return tuple(_population(name, rows.select(keep), thresholds, repeats, seed) for name, keep in chosen)


def _population(name: str, rows: Predictions, thresholds: Sequence[Threshold], repeats: int, seed: int) -> Population:
    cuts = [threshold.value for threshold in thresholds]
    lacks = _lacks(rows)
    area, precision, *others = _measure(rows, cuts, lacks is None, repeats, seed)
    return Population(
        name=name,
        n=len(rows),
        positives=int(rows.labels.sum()),
        groups=len(np.unique(rows.groups)),
        auroc=area,
        average_precision=precision,
        at=tuple(_at_threshold(rows, cut, others[4 * i : 4 * i + 4]) for i, cut in enumerate(cuts)),
        lacks=lacks,
    )


def _lacks(rows: Predictions) -> str | None:
    positives, negatives = (len(np.unique(rows.groups[rows.labels == label])) for label in (True, False))
    if not positives or not negatives:
        return f"all are {'positive' if positives else 'negative'}: both classes are needed"
    if min(positives, negatives) < FEWEST_GROUPS:
        return (
            f"no intervals: positives are of {positives} group{'s' * (positives != 1)} and negatives of {negatives}, "
            f"and {FEWEST_GROUPS} of each are needed"
        )
    return None


def _measure(
    rows: Predictions, thresholds: Sequence[float], with_intervals: bool, repeats: int, seed: int
) -> list[Estimate | None]:
    """Return AUROC, average precision, and the rates at each threshold."""
    labels, scores = rows.labels, rows.probabilities
    if not 0 < labels.sum() < len(labels):
        return [None] * (2 + 4 * len(thresholds))
    values = [auroc(labels, scores), average_precision(labels, scores)]
    for threshold in thresholds:
        found = rates(labels, scores, threshold)
        values += [found.sensitivity, found.specificity, found.accuracy, found.kappa]
    if not with_intervals:
        return [Estimate(value) for value in values]
    ranked = Ranked(labels, scores, thresholds)
    draws = draw_groups(labels, rows.groups, repeats=repeats, seed=seed)
    lows, highs = interval(np.concatenate([ranked.measure(weights) for weights in draws]))
    # Where every resample gives the same, as of a sensitivity of 1, the bootstrap knows nothing, and says so.
    return [
        Estimate(value, float(low), float(high)) if low < high else Estimate(value)
        for value, low, high in zip(values, lows, highs, strict=True)
    ]


def _at_threshold(rows: Predictions, threshold: float, measured: Sequence[Estimate | None]) -> AtThreshold:
    called, labels = rows.probabilities >= threshold, rows.labels
    sensitivity, specificity, accuracy, kappa = measured
    return AtThreshold(
        threshold=threshold,
        true_positives=int((called & labels).sum()),
        false_positives=int((called & ~labels).sum()),
        false_negatives=int((~called & labels).sum()),
        true_negatives=int((~called & ~labels).sum()),
        sensitivity=sensitivity,
        specificity=specificity,
        accuracy=accuracy,
        kappa=kappa,
    )
