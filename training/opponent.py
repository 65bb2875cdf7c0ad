"""The other side of a comparison: a model's predictions, just made or from an earlier evaluation's table."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from training.compare import align, compare
from training.evaluate import in_scope
from training.predictions import Predictions
from training.report.report import Comparison
from training.seen import Seen
from xray.card import Card
from xray.errors import UsageError

TABLE_FILE, JSON_FILE = "predictions.csv", "report.json"


@dataclass(frozen=True)
class Opponent:
    """A model, and what it says of the images.

    Attributes
    ----------
    name : str
        The model's name.
    rows : Predictions
        One row an image.
    thresholds : tuple of float, or None
        Its own, of images and of studies; None where they are not known.
    scope : collection of str or None
        Body parts it knows; None where that is not known.
    seen : Seen or None
        Whether it has seen the images.
    """

    name: str
    rows: Predictions
    thresholds: tuple[float, float] | None
    scope: Collection[str] | None
    seen: Seen | None

    @classmethod
    def of_table(cls, table: Path) -> "Opponent":
        """Read a ``predictions.csv``, and its model's name and thresholds from the ``report.json`` beside it.

        Raises
        ------
        UsageError
            If the table is wrong.
        """
        rows = Predictions.read(table)
        try:
            report = json.loads((table.parent / JSON_FILE).read_text())
            image, study = (float(report["evaluation"][e]["thresholds"][0]["value"]) for e in ("images", "studies"))
            name, scope = f"{report['model']['name']} {report['model']['version']}", report["model"]["body_parts"]
            return cls(name, rows, (image, study), [str(part) for part in scope], None)
        except (OSError, ValueError, LookupError, TypeError):
            return cls(table.name, rows, None, None, None)

    def meets(self, card: Card, rows: Predictions) -> Comparison:
        """Test a model, given by its card and its predictions, against this one.

        Raises
        ------
        UsageError
            If the predictions are not of the same images.
        """
        other = align(rows, self.rows)
        both = in_scope(rows, card.body_parts) & in_scope(rows, self.scope)
        if not both.any():
            raise UsageError(f"no image is in scope of both {card.name} and {self.name}")
        first, second = rows.select(both), other.select(both)
        lacks = None if self.thresholds else f"No {JSON_FILE} lies beside the table, so its thresholds are not known"
        at = self.thresholds or (0.0, 0.0)
        own = (card.image_threshold.value, card.study_threshold.value)
        pairs = [None if lacks else (own[i], at[i]) for i in (0, 1)]
        by_study = first.by_study(), second.by_study()
        try:
            images = compare(first, second, pairs[0])
            studies = () if len(by_study[0]) == len(first) else compare(*by_study, pairs[1])
        except UsageError as error:
            return Comparison(self.name, self.seen, (), (), str(error))
        return Comparison(self.name, self.seen, images, studies, lacks)
