"""Two models on the same images: whether one is better, or it was chance."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.data.leakage import Leakage, LeakageVerdict, check_leakage
from training.evaluate.bootstrap import RANKING, RATES, REPEATS, SEED, Ranked, draw_groups, interval
from training.evaluate.evaluation import FEWEST_GROUPS
from training.evaluate.predictions import Predictions, in_both_scopes, require_in_scope
from xray.errors import UsageError
from xray.network.card import Card
from xray.network.package import ModelPackage


@dataclass(frozen=True)
class Difference:
    """One measure of two models.

    Attributes
    ----------
    measure : str
        One of :data:`training.evaluate.bootstrap.RANKING` and `RATES`; rates are at each model's own threshold.
    first, second, difference : float
        What each was found to be, and the first minus the second.
    low, high : float or None
        95 % interval of the difference; None where every resample gives the same, so that the bootstrap knows nothing.
    p : float
        Two-sided, of the hypothesis that there is no difference; not corrected for testing several measures.
    """

    measure: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p: float


def align(first: Predictions | Dataset, second: Predictions) -> Predictions:
    """Return the second model's predictions in the order of the first's images, or of a data set's.

    Raises
    ------
    UsageError
        If they are not of the same images with the same labels.
    """
    places = {image: i for i, image in enumerate(second.images.tolist())}
    missing = [image for image in first.images.tolist() if image not in places]
    if missing or len(places) > len(first):
        raise UsageError(
            f"the two models' predictions are not of the same images: {len(missing):,} of {len(first):,} are missing "
            f"from the second, which has {len(places) - len(first) + len(missing):,} others"
        )
    aligned = second.select(np.array([places[image] for image in first.images.tolist()], np.intp))
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
    """Test two models' predictions of the same rows; every resample of groups measures both.

    Parameters
    ----------
    first, second : Predictions
        Row by row of the same images (:func:`align`) or studies. The groups drawn are the first's.
    thresholds : tuple of float, or None
        Each model's own; None leaves the rates out.
    repeats, seed : int
        Of the bootstrap.

    Returns
    -------
    tuple of Difference
        With the percentile interval of the paired differences, and twice the smaller share of them on one side of
        zero for p, one resample added to each side (Davison and Hinkley 1997, sections 4.2 and 4.4).

    Raises
    ------
    UsageError
        If either class has too few groups for an interval.
    """
    labels, groups = first.labels, first.groups
    if min(len(np.unique(groups[labels == label])) for label in (True, False)) < FEWEST_GROUPS:
        raise UsageError(
            f"too few groups to compare two models: {FEWEST_GROUPS} with positives and {FEWEST_GROUPS} with negatives "
            "are needed"
        )
    at: Sequence[tuple[float, ...]] = ((), ()) if thresholds is None else [(value,) for value in thresholds]
    one, other = (Ranked(labels, rows.probabilities, own) for rows, own in zip((first, second), at, strict=True))
    whole = np.ones((1, len(labels)), np.int32)
    found = np.stack([one.measure(whole)[0], other.measure(whole)[0]], axis=1)
    draws = draw_groups(labels, groups, repeats=repeats, seed=seed)
    differences = np.concatenate([one.measure(weights) - other.measure(weights) for weights in draws])
    lows, highs = interval(differences)
    return tuple(
        Difference(name, float(a), float(b), float(a - b), low, high, float(p))
        for name, (a, b), (low, high), p in zip(
            (*RANKING, *RATES), found, map(_ends, lows, highs), _two_sided(differences), strict=False
        )
    )


def _ends(low: float, high: float) -> tuple[float, float] | tuple[None, None]:
    return (float(low), float(high)) if low < high else (None, None)


def _two_sided(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    repeats = len(differences)
    below, above = (differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0)
    p: NDArray[np.float64] = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (repeats + 1))
    return p


@dataclass(frozen=True)
class Comparison:
    """The model against another on the same images, in scope of both.

    Attributes
    ----------
    name : str
        The other model's name and version, or its table's name.
    digest : str or None
        The other model's; None where only its table is known.
    seen : Seen or None
        Whether it has seen the images; None where only its table is known.
    images, studies : tuple of Difference
        Empty where nothing could be compared, or studies are single images.
    lacks : str or None
        Why something is missing.
    """

    name: str
    digest: str | None
    seen: Leakage | None
    images: tuple[Difference, ...]
    studies: tuple[Difference, ...]
    lacks: str | None


TABLE_FILE, JSON_FILE = "predictions.csv", "report.json"


@dataclass(frozen=True)
class Baseline:
    """A model, and what it says of the images.

    Attributes
    ----------
    name : str
        The model's name and version, or its table's name.
    digest : str or None
        The model's; None where that is not known.
    rows : Predictions
        One row an image.
    thresholds : tuple of float, or None
        Its own, of images and of studies; None where they are not known.
    scope : collection of str or None
        Body parts it knows; None where that is not known.
    seen : Seen or None
        Whether it has seen the images; None where that is not known.
    """

    name: str
    digest: str | None
    rows: Predictions
    thresholds: tuple[float, float] | None
    scope: Collection[str] | None
    seen: Leakage | None

    @classmethod
    def of_table(cls, table: Path) -> "Baseline":
        """Read a ``predictions.csv``, and all else from the ``report.json`` beside it.

        Raises
        ------
        UsageError
            If the table is wrong.
        """
        rows = Predictions.read(table)
        try:
            report = json.loads((table.parent / JSON_FILE).read_text())
            image, study = (float(report["evaluation"][e]["thresholds"][0]["value"]) for e in ("images", "studies"))
            model, told = report["model"], report["seen"]
            return cls(
                name=f"{model['name']} {model['version']}",
                digest=str(model["digest"]),
                rows=rows,
                thresholds=(image, study),
                scope=[str(part) for part in model["body_parts"]],
                seen=Leakage(LeakageVerdict(told["verdict"]), str(told["text"])),
            )
        except (OSError, ValueError, LookupError, TypeError):
            return cls(table.name, None, rows, None, None, None)

    @classmethod
    def of_package(cls, package: ModelPackage, rows: Predictions, dataset: Dataset) -> "Baseline":
        """Take a package's predictions of a data set's images."""
        card = package.card
        return cls(
            name=f"{card.name} {card.version}",
            digest=package.digest,
            rows=rows,
            thresholds=(card.image_threshold.value, card.study_threshold.value),
            scope=card.body_parts,
            seen=check_leakage(package, dataset),
        )

    def require_of(self, dataset: Dataset) -> None:
        """Refuse what :meth:`meets` would refuse for its images, as far as it can be told before these are read.

        Raises
        ------
        UsageError
            If there are predictions of images that are not in the data set, or labels or studies differ.
        """
        align(dataset.select(np.isin(dataset.images, self.rows.images)), self.rows)

    def meets(self, card: Card, rows: Predictions) -> Comparison:
        """Test a model, given by its card and its predictions, against this one.

        Raises
        ------
        UsageError
            If the predictions are not of the same images, or none is in scope of both.
        """
        other = align(rows, self.rows)
        both = in_both_scopes(rows, card, self.name, self.scope)
        first, second = rows.select(both), other.select(both)
        lacks = None if self.thresholds else f"No {JSON_FILE} lies beside the table, so its thresholds are not known"
        at = self.thresholds or (0.0, 0.0)
        own = (card.image_threshold.value, card.study_threshold.value)
        pairs = [None if lacks else (own[i], at[i]) for i in (0, 1)]
        by_study = first.by_study(), second.by_study()
        try:
            images = compare(first, second, pairs[0])
            studies = () if len(by_study[0]) == len(first) else compare(*by_study, pairs[1])
        except UsageError as error:
            return Comparison(self.name, self.digest, self.seen, (), (), str(error))
        return Comparison(self.name, self.digest, self.seen, images, studies, lacks)


def require_fitting(dataset: Dataset, card: Card, rival: Baseline | ModelPackage | None) -> None:
    """Refuse, before a data set's images are read, what would be refused after hours.

    Raises
    ------
    UsageError
        If a model cannot be measured on them, or not compared with its rival.
    """
    require_in_scope(dataset, card)
    if isinstance(rival, ModelPackage):
        in_both_scopes(dataset, card, rival.card.name, rival.card.body_parts)
    elif rival is not None:
        rival.require_of(dataset)
        in_both_scopes(dataset, card, rival.name, rival.scope)


def require_readable(readable: Dataset, card: Card, rival: Baseline | ModelPackage | None) -> None:
    """Refuse what can be told only once it is known which images can be read.

    Raises
    ------
    UsageError
        If a model cannot be measured on these, or a rival's predictions are of others.
    """
    require_in_scope(readable, card)
    if isinstance(rival, Baseline):
        align(readable, rival.rows)
