"""Apply thresholds: the label of a probability, whether a study is flagged, and a model's scope.

Screening, the database, the Python API and reports all decide here. How a model's thresholds are chosen:
`training.evaluate.thresholds`.
"""

from collections.abc import Collection

from xray.vocabulary import Label


def is_positive(value: float, threshold: float) -> bool:
    """Tell whether a probability or score, in [0, 1], is at or above a threshold."""
    return value >= threshold


def label_of(probability: float, threshold: float) -> Label:
    """Return the predicted label of a probability, in [0, 1], at a threshold."""
    return Label.POSITIVE if is_positive(probability, threshold) else Label.NEGATIVE


def is_in_scope(body_part: str | None, known: Collection[str]) -> bool:
    """Tell whether a model applies to a body part: to those that it was trained on, and where it is unknown."""
    return body_part is None or body_part in known
