"""How logits become probabilities, and whether these say how often one is right."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from training.evaluate.predictions import Predictions
from xray.network.card import Calibration

BINS = 15
"""As many as Guo et al. 2017 take; fewer where a bin would hold fewer than `LEAST_IN_BIN` rows."""
LEAST_IN_BIN = 10

HEAT_MAP_PERCENTILE = 95

_STEEPEST = 100.0
_NEAR_AN_END = 1.001
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Bin:
    """Rows of about the same probability.

    Attributes
    ----------
    n, groups : int
        Rows, and groups they belong to.
    probability : float
        The mean of their probabilities.
    positive : float
        The share of them that is positive.
    low, high : float
        95 % interval of that share (Wilson 1927, JASA), as if from one row a group: rows of a group are alike, and
        a bootstrap would be sure of a share of 0.
    """

    n: int
    groups: int
    probability: float
    positive: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How well probabilities agree with how often the finding is there.

    Attributes
    ----------
    mean_probability, prevalence : float
        Of all rows; alike when probabilities are right on the whole.
    expected_calibration_error : float
        See :func:`expected_calibration_error`.
    brier : float
        Mean squared difference of probability and label (Brier 1950, Monthly Weather Review).
    bins : tuple of Bin
        For a reliability plot, from the lowest probability up.
    """

    mean_probability: float
    prevalence: float
    expected_calibration_error: float
    brier: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Temperature:
    """What temperature scaling would do, fitted to the same rows: it flatters.

    Attributes
    ----------
    temperature : float
        Logits divided by it fit the labels best.
    expected_calibration_error, brier : float
        Of the probabilities it makes.
    """

    temperature: float
    expected_calibration_error: float
    brier: float


def fit_platt(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    """Fit Platt's scaling (Platt 1999) by maximum likelihood, without class weights.

    Parameters
    ----------
    logits : ndarray of float64, (N,)
        The network's.
    labels : ndarray of bool, (N,)
        Human labels, both classes.
    """
    model = LogisticRegression(C=np.inf).fit(logits[:, None], labels)
    return Calibration(float(model.coef_[0, 0]), float(model.intercept_[0]))


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    """Fit temperature scaling by maximum likelihood (Guo et al. 2017, ICML): slope = 1 / temperature, no intercept.

    Parameters
    ----------
    logits : ndarray of float64, (N,)
        The network's.
    labels : ndarray of bool, (N,)
        Human labels.

    Returns
    -------
    Calibration
        Its slope is in [0.01, 100], and at an end of that where the likelihood has no largest value inside: logits
        that part the classes without error, or that speak against them.
    """
    low, high = 1 / _STEEPEST, _STEEPEST
    # The log likelihood is concave in the slope, so its derivative crosses zero once.
    while high / low > 1 + 1e-12:
        slope = (low * high) ** 0.5
        too_steep = ((labels - Calibration(slope, 0.0).apply(logits)) * logits).sum() < 0
        low, high = (low, slope) if too_steep else (slope, high)
    return Calibration((low * high) ** 0.5, 0.0)


def reliability(predictions: Predictions, bins: int = BINS) -> tuple[Bin, ...]:
    """Sort rows into bins of equal mass, equal probabilities together (Nixon et al. 2019, CVPR workshops).

    Bins of equal width would hold nearly all films in the lowest, and a handful, with all their chance, in each other.

    Parameters
    ----------
    predictions : Predictions
        N rows, at least one.
    bins : int
        At most so many: ties leave fewer.
    """
    p = predictions.probabilities
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    member = np.searchsorted(edges, p, side="right")
    return tuple(_bin(predictions.select(member == i)) for i in range(len(edges) + 1) if (member == i).any())


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Return the mean distance of probability and share of positives, bins weighted by rows (Naeini et al. 2015, AAAI).

    It is never below zero, so with few rows a model without fault has one as well.
    """
    return sum(b.n * abs(b.probability - b.positive) for b in bins) / sum(b.n for b in bins)


def agreement(predictions: Predictions) -> Agreement:
    """Say how well N probabilities agree with N labels."""
    bins = reliability(predictions, min(BINS, max(2, len(predictions) // LEAST_IN_BIN)))
    return Agreement(
        mean_probability=float(predictions.probabilities.mean()),
        prevalence=float(predictions.labels.mean()),
        expected_calibration_error=expected_calibration_error(bins),
        brier=float(((predictions.probabilities - predictions.labels) ** 2).mean()),
        bins=bins,
    )


def best_temperature(predictions: Predictions) -> Temperature | None:
    """Fit a temperature to N predictions' logits; None where none fits best, as where they have one class only."""
    if not 0 < predictions.labels.sum() < len(predictions):
        return None
    scaling = fit_temperature(predictions.logits, predictions.labels)
    if max(scaling.slope, 1 / scaling.slope) * _NEAR_AN_END > _STEEPEST:
        return None
    scaled = agreement(replace(predictions, probabilities=scaling.apply(predictions.logits)))
    return Temperature(1 / scaling.slope, scaled.expected_calibration_error, scaled.brier)


def heat_map_scale(cam_maxima: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the CAM value that few positive films exceed, so that films without evidence stay dark.

    Parameters
    ----------
    cam_maxima : ndarray of float64, (N,)
        The largest CAM value of each image, out of fold.
    labels : ndarray of bool, (N,)
        Human labels.
    """
    return float(np.percentile(cam_maxima[labels], HEAT_MAP_PERCENTILE))


def _bin(members: Predictions) -> Bin:
    share, groups = float(members.labels.mean()), len(np.unique(members.groups))
    spread = _NORMAL_95**2 / groups
    centre = (share + spread / 2) / (1 + spread)
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5 / (1 + spread)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Bin(len(members), groups, float(members.probabilities.mean()), share, low, high)
