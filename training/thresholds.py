"""Thresholds for an aim that somebody states, of images and of studies."""

from dataclasses import dataclass

from training.predictions import Predictions
from xray.card import Threshold
from xray.errors import UsageError
from xray.metrics import sensitivity_threshold, youden_threshold

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
            Of images, or of studies (:meth:`training.predictions.Predictions.by_study`).
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
