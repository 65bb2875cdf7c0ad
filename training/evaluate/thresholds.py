"""Choice of a threshold for an aim: the largest sensitivity + specificity, or a least sensitivity."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluate.metrics import sensitivity_threshold, youden_threshold
from training.evaluate.population import FEWEST_GROUPS
from training.evaluate.predictions import Predictions
from xray.errors import UsageError
from xray.network.card import Threshold
from xray.vocabulary import count

FEWEST_ROWS = 20
"""Rows of each class that a threshold or a calibration needs: ten for each of Platt scaling's two parameters (Peduzzi
et al. 1996, Journal of Clinical Epidemiology), and the number from which a sensitivity of 0.95 may miss a positive."""

_YOUDEN = "youden"
_SENSITIVITY = "sensitivity"


@dataclass(frozen=True)
class ThresholdAim:
    """What a threshold is chosen for.

    Parameters
    ----------
    sensitivity : float or None
        The least sensitivity, in (0, 1]: the highest threshold that reaches it is chosen. None is for the largest
        sensitivity + specificity (Youden 1950, Cancer).
    """

    sensitivity: float | None = None

    @classmethod
    def parse(cls, text: str) -> "ThresholdAim":
        """Read ``youden`` or ``sensitivity:0.95``.

        Raises
        ------
        UsageError
            If it is neither, or the sensitivity is not in (0, 1].
        """
        if text == _YOUDEN:
            return cls()
        name, _, number = text.partition(":")
        try:
            sensitivity = float(number)
        except ValueError:
            sensitivity = 0.0
        if name != _SENSITIVITY or not 0 < sensitivity <= 1:
            raise UsageError(
                f"there is no aim {text!r}: give 'youden', or 'sensitivity:0.95' with a number over 0 and up to 1"
            )
        return cls(sensitivity)

    @property
    def label(self) -> str:
        """Short name: ``"Youden"``, ``"sensitivity 0.95"``."""
        return "Youden" if self.sensitivity is None else f"sensitivity {self.sensitivity:g}"

    def __str__(self) -> str:
        if self.sensitivity is None:
            return "the largest sensitivity + specificity (Youden)"
        return f"a sensitivity of at least {self.sensitivity:g}"

    def choose_threshold(self, predictions: Predictions, source: str) -> Threshold:
        """Choose a threshold on calibrated probabilities.

        Parameters
        ----------
        predictions : Predictions
            Predictions of images, or of studies (:meth:`training.evaluate.predictions.Predictions.by_study`).
        source : str
            Description of them for the card: ``"3,002 images of FracAtlas, out of fold"``.

        Raises
        ------
        UsageError
            If one of the classes is missing.
        """
        try:
            if self.sensitivity is None:
                value = youden_threshold(predictions.labels, predictions.probabilities)
            else:
                value = sensitivity_threshold(predictions.labels, predictions.probabilities, self.sensitivity)
        except ValueError as error:
            raise UsageError(f"no threshold can be chosen on {source}: {error}") from error
        too_few = describe_too_few(predictions.labels, predictions.groups)
        return Threshold(value, f"{self}, chosen on {source}{f', too few to rely on: {too_few}' if too_few else ''}")


def describe_too_few(labels: NDArray[np.bool_], groups: NDArray[np.str_]) -> str | None:
    """Say which class has too few rows, or rows of too few groups, to choose a threshold or a calibration on.

    Parameters
    ----------
    labels : ndarray of bool, (N,)
        Human labels.
    groups : ndarray of str, (N,)
        Group keys; rows of a group are alike.

    Returns
    -------
    str or None
        None if both classes have enough.
    """
    rows = {name: groups[labels == positive] for name, positive in (("positive", True), ("negative", False))}
    few = [
        f"{len(of_class):,} {name} in {count(len(np.unique(of_class)), 'group')}"
        for name, of_class in rows.items()
        if len(of_class) < FEWEST_ROWS or len(np.unique(of_class)) < FEWEST_GROUPS
    ]
    if not few:
        return None
    return f"{' and '.join(few)}, where {FEWEST_ROWS} in {FEWEST_GROUPS} groups are needed"
