"""Evaluation of a trained network on held-out images: the calibration, thresholds and metrics on its card."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.evaluate.bootstrap import THRESHOLD_METRICS
from training.evaluate.calibration import fit_platt, is_flat
from training.evaluate.evaluation import ALL, UPPER_LIMB_NAME, Evaluation, evaluate
from training.evaluate.metrics import auroc
from training.evaluate.pointing import Pointing, measure_pointing
from training.evaluate.population import Estimate, Population
from training.evaluate.predictions import NetworkOutputs, Predictions
from training.evaluate.scope import choose_distance, false_alarms
from training.evaluate.thresholds import ThresholdAim, describe_too_few
from xray.images.preprocessing import Preprocessing
from xray.network.card import Calibration, Distance, Metric, Threshold
from xray.vocabulary import count

AIMS = (ThresholdAim(), ThresholdAim(0.95))
"""What thresholds are chosen for; the card's own are the first's."""

POINTING_GAME, MAP_MASS = "pointing game", "map mass inside findings"
"""Metrics of a card; see :mod:`training.evaluate.pointing`."""

LEAST_HEAT_MAP_SCALE = 1e-3
"""For a network whose map is never positive: it has nothing to draw, and needs a scale all the same."""


@dataclass(frozen=True)
class HeldOutSet:
    """Images that a network was not trained on, and its outputs for them.

    Attributes
    ----------
    dataset : Dataset
        n labelled images.
    outputs : NetworkOutputs
        The network's outputs for them.
    how : str
        How they were held out: ``"out of fold"``, ``"test part"``.
    """

    dataset: Dataset
    outputs: NetworkOutputs
    how: str


@dataclass(frozen=True)
class ModelEvaluation:
    """All that a card gives that was chosen or measured; see :class:`xray.network.card.Card`.

    Attributes
    ----------
    evaluation : Evaluation
        All that was measured; the card has most of it as `metrics`.
    pointing : tuple of Pointing
        Whether the maps point at the findings; empty where none is marked.
    predictions : Predictions
        Predictions of the images that were measured on.
    how : str
        How these were held out.
    warnings : tuple of str
        Why calibration and thresholds cannot be relied on; empty if they can.
    """

    calibration: Calibration
    image_threshold: Threshold
    study_threshold: Threshold
    distance: Distance
    heat_map_scale: float
    metrics: tuple[Metric, ...]
    evaluation: Evaluation
    pointing: tuple[Pointing, ...]
    predictions: Predictions
    how: str
    warnings: tuple[str, ...]


def evaluate_model(
    tuning: HeldOutSet, test: HeldOutSet, preprocessing: Preprocessing, components: int
) -> ModelEvaluation:
    """Choose calibration, thresholds, scope and map scale on one held-out set, and measure on another, or the same.

    Parameters
    ----------
    tuning : HeldOutSet
        Images to choose on, of both classes.
    test : HeldOutSet
        Images to measure on, of both classes.
    preprocessing : Preprocessing
        How the images became the network's input.
    components : int
        Principal components of the network's distance.
    """
    calibration = fit_platt(tuning.outputs.logits, tuning.dataset.labels)
    tuning_images = _predictions(tuning, calibration)
    tuning_studies = tuning_images.by_study()
    source = f"{count(len(tuning_images), 'image')} of {tuning.dataset.terms.name}, {tuning.how}"
    image_thresholds = [aim.choose_threshold(tuning_images, source) for aim in AIMS]
    study_thresholds = [aim.choose_threshold(tuning_studies, source) for aim in AIMS]
    predictions = _predictions(test, calibration)
    evaluation = evaluate(predictions, image_thresholds, study_thresholds)
    pointing = measure_pointing(test.dataset, test.outputs.cams, preprocessing)
    data = test.dataset.terms.name
    distance = choose_distance(tuning.outputs.distances, components, source)
    shares = false_alarms(test.outputs.distances, test.dataset, distance.threshold, test.how)
    return ModelEvaluation(
        calibration,
        image_thresholds[0],
        study_thresholds[0],
        replace(distance, shares=shares),
        max(heat_map_scale(tuning.outputs.cam_maxima, tuning.dataset.labels), LEAST_HEAT_MAP_SCALE),
        (*card_metrics(evaluation, AIMS, data, test.how), *pointing_metrics(pointing, data, test.how)),
        evaluation,
        pointing,
        predictions,
        test.how,
        tuple(_warnings(calibration, tuning, source)),
    )


def warn_of_too_few(tuning: Dataset) -> str | None:
    """Return a warning if there are too few images to choose calibration and thresholds on; None if there are not."""
    too_few = describe_too_few(tuning.labels, tuning.groups)
    if too_few is None:
        return None
    return (
        f"Too few images to choose calibration and thresholds on: {too_few}. Probabilities and labels may be far off "
        "on other images."
    )


def _warnings(calibration: Calibration, tuning: HeldOutSet, source: str) -> Iterator[str]:
    if is_flat(calibration):
        area = auroc(tuning.dataset.labels, tuning.outputs.logits)
        yield (
            f"The scores may mean nothing: on {source}, a higher logit did not go with the finding (AUROC "
            f"{area:.2f}), so the slope of the calibration is the least allowed, {calibration.slope:g}. Do not screen "
            "with this model: train it longer, or on more images."
        )
    too_few = warn_of_too_few(tuning.dataset)
    if too_few is not None:
        yield too_few


def _predictions(held_out: HeldOutSet, calibration: Calibration) -> Predictions:
    logits = held_out.outputs.logits
    return Predictions.of(held_out.dataset, logits, calibration.apply(logits))


def heat_map_scale(cam_maxima: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the greatest CAM value that half of the positive images reach, so that images without evidence stay dark.

    Not a value that few reach: finer maps have narrow peaks of very different heights, and most would look empty.

    Parameters
    ----------
    cam_maxima : ndarray of float64, (N,)
        The largest CAM value of each image, in units of the logit.
    labels : ndarray of bool, (N,)
        Human labels.
    """
    return float(np.median(cam_maxima[labels]))


def card_metrics(evaluation: Evaluation, aims: Sequence[ThresholdAim], data: str, how: str) -> tuple[Metric, ...]:
    """Turn an evaluation into a card's metrics.

    All images and those of the upper limb get all metrics, other populations the AUROC; the same for studies, unless
    each study is a single image.

    Parameters
    ----------
    evaluation : Evaluation
        What was measured.
    aims : sequence of ThresholdAim
        What each of the evaluation's thresholds was chosen for, the same of images and of studies.
    data : str
        Name of the data set: ``"FracAtlas"``.
    how : str
        How its images were held out: ``"out of fold"``.
    """
    levels = [("images", evaluation.images)]
    if not evaluation.one_image_a_study:
        levels.append(("studies", evaluation.studies))
    return tuple(
        Metric(metric, f"{data}, {rows}{_of_part(p)} (n={p.n}, positive {p.positives}), {how}", e.value, e.low, e.high)
        for rows, level in levels
        for p in level.populations
        for metric, e in _named_estimates(p, _threshold_names(level.thresholds, aims))
        if e is not None
    )


def pointing_metrics(pointing: Sequence[Pointing], data: str, how: str) -> tuple[Metric, ...]:
    """Turn the measurement of maps into a card's metrics; parameters are as of :func:`card_metrics`."""
    found = []
    for p in pointing:
        part = "" if p.name == ALL else f" of the {p.name}"
        population = f"{data}, positive images{part} with marked findings (n={p.n}), {how}"
        found += [
            Metric(POINTING_GAME, population, p.game.value, p.game.low, p.game.high),
            Metric(f"{POINTING_GAME}, by chance", population, p.game_by_chance, None, None),
            Metric(MAP_MASS, population, p.mass.value, p.mass.low, p.mass.high),
            Metric(f"{MAP_MASS}, by chance", population, p.mass_by_chance, None, None),
        ]
    return tuple(found)


def _of_part(population: Population) -> str:
    return {ALL: "", UPPER_LIMB_NAME: " of the upper limb"}.get(population.name, f" of {population.name}")


def _named_estimates(
    population: Population, threshold_names: Mapping[float, str]
) -> Iterator[tuple[str, Estimate | None]]:
    yield "AUROC", population.auroc
    if population.name not in (ALL, UPPER_LIMB_NAME):
        return
    yield "average precision", population.average_precision
    for value, at in {at.threshold: at for at in population.at}.items():
        for metric in THRESHOLD_METRICS:
            yield f"{metric} at {threshold_names[value]}", getattr(at, metric)


def _threshold_names(thresholds: Sequence[Threshold], aims: Sequence[ThresholdAim]) -> dict[float, str]:
    """Name each distinct threshold, with the aims that it was chosen for."""
    labels: dict[float, list[str]] = {}
    for threshold, aim in zip(thresholds, aims, strict=True):
        labels.setdefault(threshold.value, []).append(aim.label)
    return {value: f"{value:.3f} ({', '.join(names)})" for value, names in labels.items()}
