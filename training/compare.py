"""Two models on the same images: whether one is better, or it was chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.bootstrap import RANKING, RATES, REPEATS, SEED, Ranked, draw_groups, interval
from training.dataset import Dataset
from training.evaluate import FEWEST_GROUPS
from training.predictions import Predictions
from xray.errors import UsageError


@dataclass(frozen=True)
class Difference:
    """One measure of two models.

    Attributes
    ----------
    measure : str
        One of :data:`training.bootstrap.RANKING` and `RATES`; rates are at each model's own threshold.
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
