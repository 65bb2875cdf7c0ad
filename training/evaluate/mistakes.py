"""The worst mistakes of a model: images that it classifies against their human label with the most certainty."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.evaluate.predictions import Predictions
from training.report_page import encode_image
from xray.archives.files import read_image_file
from xray.errors import ArchiveOutage, FileFault
from xray.images.decode import decode
from xray.images.preprocessing import Preprocessing
from xray.network.card import Card
from xray.network.engine import Engine
from xray.network.heatmap import render_heat_map
from xray.thresholds import is_positive
from xray.vocabulary import RESEARCH_NOTICE, Label

WORST = 6
"""Mistakes of each kind in a report."""

_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Mistake:
    """One image that the model classifies against its human label.

    Attributes
    ----------
    image, study, body_part : str
        As in :class:`training.evaluate.predictions.Predictions`.
    human_label : Label
        What a person found.
    probability : float
        What the model predicts, in [0, 1].
    """

    image: str
    study: str
    body_part: str
    human_label: Label
    probability: float


def worst_mistakes(predictions: Predictions, threshold: float, count: int = WORST) -> tuple[Mistake, ...]:
    """Return the missed positives of the lowest and the flagged negatives of the highest probability, worst first.

    Parameters
    ----------
    predictions : Predictions
        One row an image.
    threshold : float
        A probability at or above it is positive.
    count : int
        The largest number of each kind.
    """
    probabilities = predictions.probabilities
    flagged = is_positive(probabilities, threshold)
    order = np.argsort(probabilities, kind="stable")
    missed = [i for i in order.tolist() if predictions.labels[i] and not flagged[i]][:count]
    false_alarms = [i for i in order[::-1].tolist() if flagged[i] and not predictions.labels[i]][:count]
    return tuple(
        Mistake(
            str(predictions.images[i]),
            str(predictions.studies[i]),
            str(predictions.body_parts[i]),
            Label.POSITIVE if predictions.labels[i] else Label.NEGATIVE,
            float(probabilities[i]),
        )
        for i in (*missed, *false_alarms)
    )


def draw_mistakes(mistakes: Sequence[Mistake], root: Path, card: Card, engine: Engine) -> list[bytes | None]:
    """Draw each image beside its heat map, on the card's scale.

    Returns
    -------
    list of bytes or None
        JPEG; None where the file can no longer be read.
    """
    return [_draw(mistake, root, card, engine) for mistake in mistakes]


def _draw(mistake: Mistake, root: Path, card: Card, engine: Engine) -> bytes | None:
    preprocessing = Preprocessing.from_id(card.preprocessing)
    try:
        gray = decode(read_image_file(root, mistake.image))
    except (ArchiveOutage, FileFault):
        return None
    drawn = render_heat_map(
        gray,
        engine.infer(preprocessing.apply(gray)[None]).cams[0],
        preprocessing=preprocessing,
        scale=card.heat_map_scale,
        caption=[
            mistake.image,
            f"{card.finding}: human label {mistake.human_label}, probability {mistake.probability:.3f}",
            RESEARCH_NOTICE,
        ],
    )
    return encode_image(drawn, "JPEG", quality=_JPEG_QUALITY)
