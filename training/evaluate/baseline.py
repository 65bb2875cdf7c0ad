"""Comparison of a model with a baseline on the same images: paired differences with intervals and p-values."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.data.leakage import Leakage, LeakageVerdict, check_leakage
from training.evaluate.bootstrap import (
    RANKING_METRICS,
    REPEATS,
    SEED,
    THRESHOLD_METRICS,
    WeightedMetrics,
    percentile_interval,
    resample_groups,
)
from training.evaluate.population import FEWEST_GROUPS
from training.evaluate.predictions import Predictions, in_both_scopes, require_in_scope
from xray.errors import UsageError
from xray.network.card import Card
from xray.network.package import ModelPackage

JSON_FILE = "report.json"


@dataclass(frozen=True)
class Difference:
    """One metric of two models.

    Attributes
    ----------
    measure : str
        One of :data:`training.evaluate.bootstrap.RANKING_METRICS` and `THRESHOLD_METRICS`; the latter are at each
        model's own threshold.
    first, second, difference : float
        The metric of each model, and the first minus the second.
    low, high : float or None
        95 % interval of the difference; None where all resamples give the same difference.
    p : float
        Two-sided p-value of the hypothesis that there is no difference; not corrected for testing several metrics.
    """

    measure: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p: float

    @property
    def interval(self) -> str:
        """The interval as text."""
        return "no interval" if self.low is None else f"{self.low:+.3f} to {self.high:+.3f}"


def align(first: Predictions | Dataset, second: Predictions) -> Predictions:
    """Return the second predictions in the order of the first's images, or of a data set's.

    Raises
    ------
    UsageError
        If the images differ, or the label or study of one of them.
    """
    rows = {image: i for i, image in enumerate(second.images.tolist())}
    missing = [image for image in first.images.tolist() if image not in rows]
    if missing or len(rows) > len(first):
        raise UsageError(
            f"the two models' predictions are not of the same images: {len(missing):,} of {len(first):,} are missing "
            f"from the second, which has {len(rows) - len(first) + len(missing):,} others"
        )
    aligned = second.select(np.array([rows[image] for image in first.images.tolist()], np.intp))
    differs = np.flatnonzero((aligned.labels != first.labels) | (aligned.studies != first.studies))
    if len(differs):
        raise UsageError(f"the two tables differ in the label or study of {str(first.images[differs[0]])!r}")
    return aligned


def compare(
    first: Predictions,
    second: Predictions,
    thresholds: tuple[float, float] | None,
    *,
    repeats: int = REPEATS,
    seed: int = SEED,
) -> tuple[Difference, ...]:
    """Compare two models' predictions of the same rows by a paired bootstrap: each resample measures both.

    Parameters
    ----------
    first, second : Predictions
        Of the same images (:func:`align`) or studies, row by row. Groups are drawn as the first has them.
    thresholds : tuple of float, or None
        The two models' thresholds; without them only the ranking is compared.
    repeats, seed : int
        Resamples of the bootstrap, and its seed.

    Returns
    -------
    tuple of Difference
        With the percentile interval of the paired differences. The p-value is twice the share of them on the smaller
        side of zero, with one resample added to each side (Davison and Hinkley 1997, sections 4.2 and 4.4).

    Raises
    ------
    UsageError
        If one of the classes has too few groups for an interval.
    """
    labels, groups = first.labels, first.groups
    if min(len(np.unique(groups[labels == label])) for label in (True, False)) < FEWEST_GROUPS:
        raise UsageError(
            f"too few groups to compare two models: {FEWEST_GROUPS} with positives and {FEWEST_GROUPS} with negatives "
            "are needed"
        )
    own: Sequence[tuple[float, ...]] = ((), ()) if thresholds is None else [(value,) for value in thresholds]
    one, other = (
        WeightedMetrics(labels, rows.probabilities, at) for rows, at in zip((first, second), own, strict=True)
    )
    all_once = np.ones((1, len(labels)), np.int32)
    values = np.stack([one.compute(all_once)[0], other.compute(all_once)[0]], axis=1)
    resamples = resample_groups(labels, groups, repeats=repeats, seed=seed)
    differences = np.concatenate([one.compute(weights) - other.compute(weights) for weights in resamples])
    lows, highs = percentile_interval(differences)
    return tuple(
        Difference(name, float(a), float(b), float(a - b), low, high, float(p))
        for name, (a, b), (low, high), p in zip(
            (*RANKING_METRICS, *THRESHOLD_METRICS), values, map(_ends, lows, highs), _two_sided_p(differences),
            strict=False,
        )
    )  # fmt: skip


def _ends(low: float, high: float) -> tuple[float, float] | tuple[None, None]:
    return (float(low), float(high)) if low < high else (None, None)


def _two_sided_p(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    repeats = len(differences)
    below, above = (differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0)
    p: NDArray[np.float64] = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (repeats + 1))
    return p


@dataclass(frozen=True)
class Comparison:
    """A model compared with a baseline on the same images, those in scope of both.

    Attributes
    ----------
    name : str
        The baseline's name and version, or the name of its table.
    digest : str or None
        The baseline's digest; None where only its table is known.
    leakage : Leakage or None
        Whether the baseline was trained on these images; None where only its table is known.
    images, studies : tuple of Difference
        Empty where nothing could be compared, or where each study is a single image.
    missing : str or None
        Why something could not be compared.
    """

    name: str
    digest: str | None
    leakage: Leakage | None
    images: tuple[Difference, ...]
    studies: tuple[Difference, ...]
    missing: str | None


@dataclass(frozen=True)
class Baseline:
    """A model to compare with, and its predictions.

    Attributes
    ----------
    name : str
        The model's name and version, or the name of its table.
    digest : str or None
        The model's digest; None where it is not known.
    rows : Predictions
        One row an image.
    thresholds : tuple of float, or None
        Its thresholds on images and on studies; None where they are not known.
    scope : collection of str or None
        Body parts that it knows; None where they are not known.
    leakage : Leakage or None
        Whether it was trained on these images; None where that is not known.
    """

    name: str
    digest: str | None
    rows: Predictions
    thresholds: tuple[float, float] | None
    scope: Collection[str] | None
    leakage: Leakage | None

    @classmethod
    def from_table(cls, table: Path) -> "Baseline":
        """Read a ``predictions.csv``, and everything else from the ``report.json`` beside it.

        Raises
        ------
        UsageError
            If the table cannot be read or is not valid.
        """
        rows = Predictions.read(table)
        try:
            report = json.loads((table.parent / JSON_FILE).read_text())
            image, study = (float(report["evaluation"][e]["thresholds"][0]["value"]) for e in ("images", "studies"))
            model, leakage = report["model"], report["leakage"]
            return cls(
                name=f"{model['name']} {model['version']}",
                digest=str(model["digest"]),
                rows=rows,
                thresholds=(image, study),
                scope=[str(part) for part in model["body_parts"]],
                leakage=Leakage(LeakageVerdict(leakage["verdict"]), str(leakage["text"])),
            )
        except (OSError, ValueError, LookupError, TypeError):
            return cls(table.name, None, rows, None, None, None)

    @classmethod
    def from_package(cls, package: ModelPackage, rows: Predictions, dataset: Dataset) -> "Baseline":
        """Combine a model package with its predictions of a data set."""
        card = package.card
        return cls(
            name=f"{card.name} {card.version}",
            digest=package.digest,
            rows=rows,
            thresholds=(card.image_threshold.value, card.study_threshold.value),
            scope=card.body_parts,
            leakage=check_leakage(package, dataset),
        )

    def compare_with(self, card: Card, rows: Predictions) -> Comparison:
        """Compare a model, given by its card and its predictions, with this baseline: the model minus the baseline.

        Raises
        ------
        UsageError
            If the predictions are of other images, or none of them is in scope of both.
        """
        aligned = align(rows, self.rows)
        both = in_both_scopes(rows, card, self.name, self.scope)
        own, other = rows.select(both), aligned.select(both)
        own_studies, other_studies = own.by_study(), other.by_study()
        at_images = at_studies = None
        missing: str | None = f"There is no {JSON_FILE} beside the table, so its thresholds are not known"
        if self.thresholds:
            at_images = card.image_threshold.value, self.thresholds[0]
            at_studies = card.study_threshold.value, self.thresholds[1]
            missing = None
        try:
            images = compare(own, other, at_images)
            studies = () if len(own_studies) == len(own) else compare(own_studies, other_studies, at_studies)
        except UsageError as error:
            return Comparison(self.name, self.digest, self.leakage, (), (), str(error))
        return Comparison(self.name, self.digest, self.leakage, images, studies, missing)


def check_before_reading(dataset: Dataset, card: Card, baseline: Baseline | ModelPackage | None) -> None:
    """Raise an error, before the images are read, if the evaluation is bound to fail.

    Raises
    ------
    UsageError
        If the model cannot be evaluated on the data set, or not be compared with the baseline.
    """
    require_in_scope(dataset, card)
    if isinstance(baseline, ModelPackage):
        in_both_scopes(dataset, card, baseline.card.name, baseline.card.body_parts)
    elif baseline is not None:
        align(dataset.select(np.isin(dataset.images, baseline.rows.images)), baseline.rows)
        in_both_scopes(dataset, card, baseline.name, baseline.scope)


def check_after_reading(readable: Dataset, card: Card, baseline: Baseline | ModelPackage | None) -> None:
    """Raise an error, once it is known which images are readable, if the evaluation is bound to fail.

    Raises
    ------
    UsageError
        If the model cannot be evaluated on these images, or the baseline's predictions are of others.
    """
    require_in_scope(readable, card)
    if isinstance(baseline, Baseline):
        align(readable, baseline.rows)
