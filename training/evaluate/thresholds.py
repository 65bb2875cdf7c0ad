"""Choice of a threshold for an aim: the largest sensitivity + specificity, or a least sensitivity."""

from dataclasses import dataclass

from training.evaluate.metrics import sensitivity_threshold, youden_threshold
from training.evaluate.predictions import Predictions
from xray.errors import UsageError
from xray.network.card import Threshold

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
        return Threshold(value, f"{self}, chosen on {source}")
