"""Evaluation of predictions against human labels: per image, per study and by body part, with intervals."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from training.data.dataset import UPPER_LIMB
from training.evaluate.bootstrap import REPEATS, SEED
from training.evaluate.calibration import CalibrationSummary, Temperature, best_temperature, summarise_calibration
from training.evaluate.population import Population, measure_population
from training.evaluate.predictions import Predictions, in_scope
from xray.network.card import Threshold

ALL, UPPER_LIMB_NAME, UNKNOWN_PART = "all", "upper limb", "unknown body part"


@dataclass(frozen=True)
class Level:
    """The evaluation of images, or of studies.

    Attributes
    ----------
    thresholds : tuple of Threshold
        Each population is measured at each of them.
    populations : tuple of Population
        ``"all"`` first.
    calibration : CalibrationSummary
        How well probabilities agree with labels.
    """

    thresholds: tuple[Threshold, ...]
    populations: tuple[Population, ...]
    calibration: CalibrationSummary


@dataclass(frozen=True)
class Evaluation:
    """All that was measured.

    Attributes
    ----------
    images, studies : Level
        Per image, and per study (:meth:`training.evaluate.predictions.Predictions.by_study`).
    one_image_a_study : bool
        Whether each study is a single image: at the same thresholds both levels are then the same.
    temperature : Temperature or None
        The temperature that fits the images' logits best; None where none does: they have one class only, separate the
        classes perfectly, or rank them the wrong way round.
    out_of_scope : tuple of Population
        Images of body parts that the model does not know, by body part; no other number includes them.
    """

    images: Level
    studies: Level
    one_image_a_study: bool
    temperature: Temperature | None
    out_of_scope: tuple[Population, ...]

    @property
    def studies_repeat_images(self) -> bool:
        """Whether the numbers of studies are those of images."""
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
    """Evaluate predictions against their labels.

    Parameters
    ----------
    predictions : Predictions
        N rows, one an image, at least one in scope.
    image_thresholds, study_thresholds : sequence of Threshold
        Thresholds on images' probabilities and on studies' scores.
    scope : collection of str or None
        Body parts that the model knows; images of others are left out before studies are scored. None is for all.
    repeats, seed : int
        Resamples of the bootstrap, and its seed.
    """
    inside = in_scope(predictions, scope)
    images, outside = predictions.select(inside), predictions.select(~inside)
    studies = images.by_study()
    one_image_a_study = len(studies) == len(images)
    image_level = _level(images, image_thresholds, repeats, seed)
    # A second bootstrap of the same rows would give the same numbers.
    same = one_image_a_study and [t.value for t in image_thresholds] == [t.value for t in study_thresholds]
    populations = image_level.populations if same else _populations(studies, study_thresholds, repeats, seed)
    return Evaluation(
        image_level,
        Level(tuple(study_thresholds), populations, summarise_calibration(studies)),
        one_image_a_study,
        best_temperature(images),
        tuple(
            measure_population(
                part, outside.select(outside.body_parts == part), image_thresholds, repeats=repeats, seed=seed
            )
            for part in np.unique(outside.body_parts).tolist()
        ),
    )


def _level(rows: Predictions, thresholds: Sequence[Threshold], repeats: int, seed: int) -> Level:
    return Level(tuple(thresholds), _populations(rows, thresholds, repeats, seed), summarise_calibration(rows))


def _populations(rows: Predictions, thresholds: Sequence[Threshold], repeats: int, seed: int) -> tuple[Population, ...]:
    chosen = [(ALL, np.ones(len(rows), np.bool_))]
    upper = np.isin(rows.body_parts, list(UPPER_LIMB))
    if 0 < upper.sum() < len(rows):
        chosen.append((UPPER_LIMB_NAME, upper))
    parts = np.unique(rows.body_parts).tolist()
    if len(parts) > 1:
        chosen += [(part or UNKNOWN_PART, rows.body_parts == part) for part in parts]
    return tuple(
        measure_population(name, rows.select(keep), thresholds, repeats=repeats, seed=seed) for name, keep in chosen
    )
