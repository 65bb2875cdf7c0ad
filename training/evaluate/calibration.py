"""Calibration: from logits to probabilities, and how well probabilities agree with the labels."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from training.evaluate.predictions import Predictions
from xray.network.card import Calibration

BINS = 15
"""As in Guo et al. 2017; fewer where a bin would have fewer than `LEAST_IN_BIN` rows."""
LEAST_IN_BIN = 10

_FLATTEST, _STEEPEST = 0.01, 100.0
_NEAR_AN_END = 1.001
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Bin:
    """Rows of about the same probability.

    Attributes
    ----------
    n, groups : int
        Number of rows, and of groups among them.
    probability : float
        Mean probability, in [0, 1].
    positive : float
        Share of the rows that is positive, in [0, 1].
    low, high : float
        95 % interval of that share (Wilson 1927, JASA), computed as if each group had one row: rows of a group are
        alike. A bootstrap would give a share of 0 no interval at all.
    """

    n: int
    groups: int
    probability: float
    positive: float
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationSummary:
    """How well probabilities agree with how often the finding is present.

    Attributes
    ----------
    mean_probability, prevalence : float
        Mean probability and share of positives of all rows, in [0, 1]; about equal where probabilities are calibrated.
    expected_calibration_error : float
        See :func:`expected_calibration_error`.
    brier : float
        Brier score: mean squared difference of probability and label (Brier 1950, Monthly Weather Review).
    bins : tuple of Bin
        For a reliability diagram, from the lowest probability up.
    """

    mean_probability: float
    prevalence: float
    expected_calibration_error: float
    brier: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling fitted to the same rows, so that its errors are optimistic.

    Attributes
    ----------
    temperature : float
        The logits divided by it fit the labels best.
    expected_calibration_error, brier : float
        Errors of the probabilities that it gives.
    """

    temperature: float
    expected_calibration_error: float
    brier: float


def fit_platt(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    """Fit Platt scaling (Platt 1999) by maximum likelihood, with its targets, without class weights.

    The slope is at least 0.01, so that probabilities rank images as their logits do, whatever the labels. Without such
    a limit, few images or an untrained network give a negative slope, and turn a model's scores round
    (scikit-learn/scikit-learn#31222); Kull et al. 2017 (AISTATS) limit beta calibration for the same reason. Platt's
    targets, a little inside 0 and 1, keep the slope finite where the logits separate the classes.

    Parameters
    ----------
    logits : ndarray of float64, (N,)
        Outputs of the network.
    labels : ndarray of bool, (N,)
        Human labels, both classes.

    Returns
    -------
    Calibration
        With a slope in [0.01, 100]: the likeliest in that range, with the intercept that is likeliest with it. At 100,
        what engines may differ by (0.002) is 0.2 in the log odds.
    """
    positives, negatives = np.count_nonzero(labels), np.count_nonzero(~labels)
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Standardised, as the optimiser converges badly on parameters of different sizes.
    centre, spread = float(logits.mean()), float(logits.std()) or 1.0
    scaled = (logits - centre) / spread

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = parameters[0] * scaled + parameters[1]
        error = Calibration(1.0, 0.0).apply(z) - targets
        gradient = np.array([(error * scaled).mean(), error.mean()])
        return float((np.logaddexp(0, z) - targets * z).mean()), gradient

    prevalence = float(targets.mean())
    found = minimize(
        loss,
        [_FLATTEST * spread, np.log(prevalence / (1 - prevalence))],
        jac=True,
        method="L-BFGS-B",
        bounds=[(_FLATTEST * spread, _STEEPEST * spread), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000},
    )
    slope = min(max(float(found.x[0]) / spread, _FLATTEST), _STEEPEST)
    return Calibration(slope, float(found.x[1]) - slope * centre)


def is_flat(calibration: Calibration) -> bool:
    """Tell whether a fitted slope is the least allowed: higher logits did not go with the finding."""
    return calibration.slope <= _FLATTEST * _NEAR_AN_END


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    """Fit temperature scaling by maximum likelihood (Guo et al. 2017, ICML): slope = 1 / temperature, no intercept.

    Parameters
    ----------
    logits : ndarray of float64, (N,)
        Outputs of the network.
    labels : ndarray of bool, (N,)
        Human labels.

    Returns
    -------
    Calibration
        With a slope in [0.01, 100]; it is at an end of that range where the likelihood has no maximum inside, as for
        logits that separate the classes perfectly, or that rank them the wrong way round.
    """
    low, high = _FLATTEST, _STEEPEST
    # The log likelihood is concave in the slope, so its derivative crosses zero once.
    while high / low > 1 + 1e-12:
        slope = (low * high) ** 0.5
        too_steep = ((labels - Calibration(slope, 0.0).apply(logits)) * logits).sum() < 0
        low, high = (low, slope) if too_steep else (slope, high)
    return Calibration((low * high) ** 0.5, 0.0)


def reliability_bins(predictions: Predictions, bins: int = BINS) -> tuple[Bin, ...]:
    """Sort rows into equal-count bins, equal probabilities together (Nixon et al. 2019, CVPR workshops).

    Bins of equal width would put nearly all images into the lowest one, and too few for a stable share into the others.

    Parameters
    ----------
    predictions : Predictions
        N rows, at least one.
    bins : int
        The largest number of bins: ties leave fewer.
    """
    p = predictions.probabilities
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    member = np.searchsorted(edges, p, side="right")
    return tuple(_bin(predictions.select(member == i)) for i in range(len(edges) + 1) if (member == i).any())


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Return the mean distance of probability and share of positives, bins weighted by rows (Naeini et al. 2015, AAAI).

    It is never below zero, so with few rows it is above zero for a perfectly calibrated model too.
    """
    return sum(b.n * abs(b.probability - b.positive) for b in bins) / sum(b.n for b in bins)


def summarise_calibration(predictions: Predictions) -> CalibrationSummary:
    """Compare N probabilities with N labels."""
    bins = reliability_bins(predictions, min(BINS, max(2, len(predictions) // LEAST_IN_BIN)))
    return CalibrationSummary(
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
    scaled = summarise_calibration(replace(predictions, probabilities=scaling.apply(predictions.logits)))
    return Temperature(1 / scaling.slope, scaled.expected_calibration_error, scaled.brier)


def _bin(members: Predictions) -> Bin:
    share, groups = float(members.labels.mean()), len(np.unique(members.groups))
    spread = _NORMAL_95**2 / groups
    centre = (share + spread / 2) / (1 + spread)
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5 / (1 + spread)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Bin(len(members), groups, float(members.probabilities.mean()), share, low, high)
