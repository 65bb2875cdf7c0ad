"""Calibrate a network, choose its thresholds and measure it, each on the films that it was not taught with."""

from dataclasses import dataclass

from training.calibration import fit_platt, heat_map_scale
from training.card_metrics import card_metrics
from training.crossval import Answers
from training.dataset import Dataset
from training.evaluate import Evaluation, evaluate
from training.predictions import Predictions
from training.thresholds import Aim
from xray.card import Calibration, Metric, Threshold

AIMS = (Aim(), Aim(0.95))


@dataclass(frozen=True)
class Exam:
    """Films that a network has not learnt from, and what it says of them.

    Attributes
    ----------
    dataset : Dataset
        n examples.
    answers : Answers
        What the network says of them.
    how : str
        In which way they were held out: ``"out of fold"``, ``"test part"``.
    """

    dataset: Dataset
    answers: Answers
    how: str


@dataclass(frozen=True)
class Judgement:
    """What a card says that was chosen or measured; see :class:`xray.card.Card`.

    Attributes
    ----------
    evaluation : Evaluation
        All that was measured, of which the card has most.
    predictions : Predictions
        Of the films that were measured on.
    """

    calibration: Calibration
    image_threshold: Threshold
    study_threshold: Threshold
    heat_map_scale: float
    metrics: tuple[Metric, ...]
    evaluation: Evaluation
    predictions: Predictions


def judge(tuning: Exam, test: Exam) -> Judgement:
    """Choose calibration, thresholds and the heat map's scale on one exam, and measure on another, or the same.

    Parameters
    ----------
    tuning : Exam
        What is chosen on: both classes.
    test : Exam
        What is measured on: both classes.
    """
    calibration = fit_platt(tuning.answers.logits, tuning.dataset.labels)
    chosen_on = _predictions(tuning, calibration)
    on = f"{len(chosen_on):,} images of {tuning.dataset.terms.name}, {tuning.how}"
    images = [aim.choose(chosen_on, on) for aim in AIMS]
    studies = [aim.choose(chosen_on.by_study(), on) for aim in AIMS]
    predictions = _predictions(test, calibration)
    evaluation = evaluate(predictions, images, studies)
    scale = heat_map_scale(tuning.answers.cam_maxima, tuning.dataset.labels)
    return Judgement(
        calibration,
        images[0],
        studies[0],
        # A network that finds nothing has no evidence to draw, and a scale all the same.
        max(scale, 1e-3),
        card_metrics(evaluation, AIMS, test.dataset.terms.name, test.how),
        evaluation,
        predictions,
    )


def _predictions(exam: Exam, calibration: Calibration) -> Predictions:
    return Predictions.of(exam.dataset, exam.answers.logits, calibration.apply(exam.answers.logits))
