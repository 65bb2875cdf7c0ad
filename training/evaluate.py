"""Turn out-of-fold logits into a calibration, thresholds and metrics with intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from xray.card import Calibration, Metric, Threshold
from xray.metrics import auroc, average_precision, group_interval, rates, sensitivity_threshold, youden_threshold

SENSITIVITY_AIM = 0.9
HEAT_MAP_PERCENTILE = 95

Statistic = Callable[[NDArray[np.bool_], NDArray[np.float64]], float]


@dataclass(frozen=True)
class Evaluation:
    """What a card says of out-of-fold results; see :class:`xray.card.Card` for the fields."""

    calibration: Calibration
    image_threshold: Threshold
    study_threshold: Threshold
    metrics: tuple[Metric, ...]


def evaluate(
    logits: NDArray[np.float64],
    labels: NDArray[np.bool_],
    groups: NDArray[np.str_],
    upper_limb: NDArray[np.bool_],
) -> Evaluation:
    """Calibrate, choose thresholds and measure, all on out-of-fold logits.

    Parameters
    ----------
    logits : ndarray of float64, (N,)
        Each from a head that has not seen the image's group.
    labels : ndarray of bool, (N,)
        Human labels.
    groups : ndarray of str, (N,)
        Whole groups are drawn for the intervals.
    upper_limb : ndarray of bool, (N,)
        The images of the second population.
    """
    calibration = fit_platt(logits, labels)
    probabilities = calibration.apply(logits)
    youden = youden_threshold(labels, probabilities)
    sensitive = sensitivity_threshold(labels, probabilities, SENSITIVITY_AIM)
    metrics = []
    for population, keep in (("all images", np.ones(len(labels), np.bool_)), ("upper limb", upper_limb)):
        y, p, g = labels[keep], probabilities[keep], groups[keep]
        metrics += [_metric(name, population, statistic, y, p, g) for name, statistic in _statistics(youden, sensitive)]
    return Evaluation(
        calibration,
        Threshold(youden, "largest sensitivity + specificity (Youden) on calibrated out-of-fold probabilities"),
        Threshold(
            youden,
            "the image threshold: FracAtlas has no studies, and a one-image study's score is its image's probability",
        ),
        tuple(metrics),
    )


def fit_platt(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
    """Fit Platt's scaling (Platt 1999) by maximum likelihood, without class weights."""
    model = LogisticRegression(C=np.inf).fit(logits[:, None], labels)
    return Calibration(float(model.coef_[0, 0]), float(model.intercept_[0]))


def heat_map_scale(cam_maxima: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the CAM value that few fractured films exceed, so that films without evidence stay dark.

    Parameters
    ----------
    cam_maxima : ndarray of float64, (N,)
        The largest CAM value of each image, out of fold.
    labels : ndarray of bool, (N,)
        Human labels.
    """
    return float(np.percentile(cam_maxima[labels], HEAT_MAP_PERCENTILE))


def _statistics(youden: float, sensitive: float) -> list[tuple[str, Statistic]]:
    at = f"at {youden:.3f}"
    at_aim = f"at {sensitive:.3f} (sensitivity aim {SENSITIVITY_AIM:g})"
    return [
        ("AUROC", auroc),
        ("average precision", average_precision),
        (f"sensitivity {at}", lambda y, p: rates(y, p, youden).sensitivity),
        (f"specificity {at}", lambda y, p: rates(y, p, youden).specificity),
        (f"accuracy {at}", lambda y, p: rates(y, p, youden).accuracy),
        (f"sensitivity {at_aim}", lambda y, p: rates(y, p, sensitive).sensitivity),
        (f"specificity {at_aim}", lambda y, p: rates(y, p, sensitive).specificity),
    ]


def _metric(
    name: str,
    population: str,
    statistic: Statistic,
    labels: NDArray[np.bool_],
    probabilities: NDArray[np.float64],
    groups: NDArray[np.str_],
) -> Metric:
    low, high = group_interval(lambda drawn: statistic(labels[drawn], probabilities[drawn]), groups)
    described = f"FracAtlas, {population} (n={len(labels)}, fractured {int(labels.sum())}), out of fold"
    return Metric(name, described, statistic(labels, probabilities), low, high)
