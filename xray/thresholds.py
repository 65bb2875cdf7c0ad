"""Apply thresholds: the label of a probability, whether a study is flagged, and a model's scope.

`db.queries` and `db.study_results` state the same rules in SQL. How a model's thresholds are chosen:
`training.evaluate.thresholds`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from xray.vocabulary import Label

if TYPE_CHECKING:
    # The database imports these rules, and needs no NumPy.
    import numpy as np
    from numpy.typing import NDArray


@overload
def is_positive(value: float, threshold: float) -> bool: ...
@overload
def is_positive(value: "NDArray[np.floating[Any]]", threshold: float) -> "NDArray[np.bool_]": ...
def is_positive(value: Any, threshold: float) -> Any:
    """Tell whether a probability or score, in [0, 1], is at or above a threshold; an array of them gives an array."""
    return value >= threshold


def label_of(probability: float, threshold: float) -> Label:
    """Return the predicted label of a probability, in [0, 1], at a threshold."""
    return Label.POSITIVE if is_positive(probability, threshold) else Label.NEGATIVE


@dataclass(frozen=True)
class Scope:
    """The images that a model applies to.

    Parameters
    ----------
    body_parts : frozenset of str
        The body parts that it was trained on.
    modalities : frozenset of str
        The modalities of radiographs like those that it was trained on.
    distance : float or None
        How unlike the training images an image may be; None if the model does not tell.
    """

    body_parts: frozenset[str]
    modalities: frozenset[str]
    distance: float | None = None

    def includes(self, body_part: str | None, modality: str | None, distance: float | None) -> bool:
        """Tell whether the model applies to an image; it does where body part, modality or distance are unknown."""
        known_part = body_part is None or body_part in self.body_parts
        known_modality = modality is None or modality in self.modalities
        return known_part and known_modality and not is_unlike(distance, self.distance)


def is_unlike(distance: float | None, threshold: float | None) -> bool:
    """Tell whether an image is too unlike the training images for the model to apply to it.

    Parameters
    ----------
    distance : float or None
        Its distance, see `xray.network.distance`; None if it is unknown.
    threshold : float or None
        The largest distance of an image in scope; None if the model has none.
    """
    return distance is not None and threshold is not None and distance > threshold
