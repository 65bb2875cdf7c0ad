"""Which images a model is for, and whether it can be measured on them."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from training.dataset import Dataset
from training.predictions import Predictions
from xray.card import Card
from xray.errors import UsageError


def in_scope(rows: Predictions | Dataset, scope: Collection[str] | None) -> NDArray[np.bool_]:
    """Say which images, ``(N,)`` bool, a model is for: as in screening, those of an unknown body part too."""
    if scope is None:
        return np.ones(len(rows), np.bool_)
    return np.isin(rows.body_parts, [*scope, ""])


def in_both_scopes(
    rows: Predictions | Dataset, card: Card, other: str, scope: Collection[str] | None
) -> NDArray[np.bool_]:
    """Say which images, ``(N,)`` bool, a model and another one, of this name and scope, are for.

    Raises
    ------
    UsageError
        If there are none.
    """
    both = in_scope(rows, card.body_parts) & in_scope(rows, scope)
    if not both.any():
        raise UsageError(f"no image is in scope of both {card.name} and {other}")
    return both


def require_in_scope(dataset: Dataset, card: Card) -> None:
    """Refuse images on which a model cannot be measured.

    Raises
    ------
    UsageError
        If none is in scope, or those that are have one class only.
    """
    labels = dataset.labels[in_scope(dataset, card.body_parts)]
    known = f"{card.name} knows {', '.join(card.body_parts)}"
    if not len(labels):
        raise UsageError(f"none of the {len(dataset):,} images is in scope: {known}")
    if labels.all() or not labels.any():
        only = "positive" if labels.all() else "negative"
        raise UsageError(f"all {len(labels):,} images in scope are {only}, and both classes are needed: {known}")
