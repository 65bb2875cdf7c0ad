"""Thresholds for an aim that somebody states, of images and of studies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from training.data.dataset import Dataset
from training.evaluate.bootstrap import RATES
from training.evaluate.calibration import fit_platt, heat_map_scale
from training.evaluate.evaluation import ALL, UPPER, Estimate, Evaluation, Population, evaluate
from training.evaluate.metrics import sensitivity_threshold, youden_threshold
from training.evaluate.predictions import NetworkOutputs, Predictions
from xray.errors import UsageError
from xray.network.card import Calibration, Metric, Threshold

YOUDEN = "youden"
_SENSITIVITY = "sensitivity"


@dataclass(frozen=True)
class Aim:
    """What a threshold is to achieve.

    Parameters
    ----------
    sensitivity : float or None
        The least sensitivity, in (0, 1]; the highest threshold that has it is taken. None is for the largest
        sensitivity + specificity (Youden 1950, Cancer).
    """

    sensitivity: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Aim":
        """Read ``youden`` or ``sensitivity:0.95``.

        Raises
        ------
        UsageError
            If it is neither, or the sensitivity is not in (0, 1].
        """
        if text == YOUDEN:
            return cls()
        name, _, number = text.partition(":")
        try:
            sensitivity = float(number)
        except ValueError:
            sensitivity = 0.0
        if name != _SENSITIVITY or not 0 < sensitivity <= 1:
            raise UsageError(f"no aim {text!r}: it is 'youden', or 'sensitivity:0.95' with a number over 0 and up to 1")
        return cls(sensitivity)

    @property
    def label(self) -> str:
        """In few words: ``"Youden"``, ``"sensitivity 0.95"``."""
        return "Youden" if self.sensitivity is None else f"sensitivity {self.sensitivity:g}"

    def __str__(self) -> str:
        if self.sensitivity is None:
            return "the largest sensitivity + specificity (Youden)"
        return f"a sensitivity of at least {self.sensitivity:g}"

    def choose(self, predictions: Predictions, on: str) -> Threshold:
        """Choose the threshold on calibrated probabilities.

        Parameters
        ----------
        predictions : Predictions
            Of images, or of studies (:meth:`training.evaluate.predictions.Predictions.by_study`).
        on : str
            What they are, for the card: ``"3,002 images of FracAtlas, out of fold"``.

        Raises
        ------
        UsageError
            If the predictions have not both classes.
        """
        try:
            if self.sensitivity is None:
                value = youden_threshold(predictions.labels, predictions.probabilities)
            else:
                value = sensitivity_threshold(predictions.labels, predictions.probabilities, self.sensitivity)
        except ValueError as error:
            raise UsageError(f"no threshold can be chosen on {on}: {error}") from error
        return Threshold(value, f"{self}, chosen on {on}")


AIMS = (Aim(), Aim(0.95))


@dataclass(frozen=True)
class HeldOutSet:
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
    answers: NetworkOutputs
    how: str


@dataclass(frozen=True)
class ModelEvaluation:
    """What a card says that was chosen or measured; see :class:`xray.network.card.Card`.

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


def evaluate_model(tuning: HeldOutSet, test: HeldOutSet) -> ModelEvaluation:
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
    return ModelEvaluation(
        calibration,
        images[0],
        studies[0],
        # A network that finds nothing has no evidence to draw, and a scale all the same.
        max(scale, 1e-3),
        card_metrics(evaluation, AIMS, test.dataset.terms.name, test.how),
        evaluation,
        predictions,
    )


def _predictions(exam: HeldOutSet, calibration: Calibration) -> Predictions:
    return Predictions.of(exam.dataset, exam.answers.logits, calibration.apply(exam.answers.logits))


def card_metrics(evaluation: Evaluation, aims: Sequence[Aim], data: str, how: str) -> tuple[Metric, ...]:
    """Turn an evaluation into a card's metrics.

    All and the upper limb in every measure, other populations in AUROC alone; studies where they are not single images.

    Parameters
    ----------
    evaluation : Evaluation
        What was measured.
    aims : sequence of Aim
        What each of the evaluation's thresholds was chosen for, of images and of studies alike.
    data : str
        Name of the data set: ``"FracAtlas"``.
    how : str
        How it was measured: ``"out of fold"``.
    """
    levels = [("images", evaluation.images)]
    if not evaluation.one_image_a_study:
        levels.append(("studies", evaluation.studies))
    return tuple(
        Metric(measure, f"{data}, {rows}{_of(p)} (n={p.n}, positive {p.positives}), {how}", e.value, e.low, e.high)
        for rows, level in levels
        for p in level.populations
        for measure, e in _named(p, _cuts(level.thresholds, aims))
        if e is not None
    )


def _of(population: Population) -> str:
    return {ALL: "", UPPER: " of the upper limb"}.get(population.name, f" of {population.name}")


def _named(population: Population, cuts: Mapping[float, str]) -> Iterator[tuple[str, Estimate | None]]:
    yield "AUROC", population.auroc
    if population.name not in (ALL, UPPER):
        return
    yield "average precision", population.average_precision
    for cut, at in {at.threshold: at for at in population.at}.items():
        for name, estimate in zip(RATES, (at.sensitivity, at.specificity, at.accuracy, at.kappa), strict=True):
            yield f"{name} at {cuts[cut]}", estimate


def _cuts(thresholds: Sequence[Threshold], aims: Sequence[Aim]) -> dict[float, str]:
    """Name each threshold once, with the aims that it was chosen for."""
    labels: dict[float, list[str]] = {}
    for threshold, aim in zip(thresholds, aims, strict=True):
        labels.setdefault(threshold.value, []).append(aim.label)
    return {cut: f"{cut:.3f} ({', '.join(names)})" for cut, names in labels.items()}
