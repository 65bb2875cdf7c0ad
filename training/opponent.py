"""The other side of a comparison: a model's predictions, just made or from an earlier evaluation's table."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.compare import align, compare
from training.dataset import Dataset
from training.predictions import Predictions
from training.report.report import Comparison
from training.scope import in_both_scopes, require_in_scope
from training.seen import Seen, Verdict, seen
from xray.card import Card
from xray.errors import UsageError
from xray.package import ModelPackage

TABLE_FILE, JSON_FILE = "predictions.csv", "report.json"


@dataclass(frozen=True)
class Opponent:
    """A model, and what it says of the images.

    Attributes
    ----------
    name : str
        The model's name and version, or its table's name.
    digest : str or None
        The model's; None where that is not known.
    rows : Predictions
        One row an image.
    thresholds : tuple of float, or None
        Its own, of images and of studies; None where they are not known.
    scope : collection of str or None
        Body parts it knows; None where that is not known.
    seen : Seen or None
        Whether it has seen the images; None where that is not known.
    """

    name: str
    digest: str | None
    rows: Predictions
    thresholds: tuple[float, float] | None
    scope: Collection[str] | None
    seen: Seen | None

    @classmethod
    def of_table(cls, table: Path) -> "Opponent":
        """Read a ``predictions.csv``, and all else from the ``report.json`` beside it.

        Raises
        ------
        UsageError
            If the table is wrong.
        """
        rows = Predictions.read(table)
        try:
            report = json.loads((table.parent / JSON_FILE).read_text())
            image, study = (float(report["evaluation"][e]["thresholds"][0]["value"]) for e in ("images", "studies"))
            model, told = report["model"], report["seen"]
            return cls(
                name=f"{model['name']} {model['version']}",
                digest=str(model["digest"]),
                rows=rows,
                thresholds=(image, study),
                scope=[str(part) for part in model["body_parts"]],
                seen=Seen(Verdict(told["verdict"]), str(told["text"])),
            )
        except (OSError, ValueError, LookupError, TypeError):
            return cls(table.name, None, rows, None, None, None)

    @classmethod
    def of_package(cls, package: ModelPackage, rows: Predictions, dataset: Dataset) -> "Opponent":
        """Take a package's predictions of a data set's images."""
        card = package.card
        return cls(
            name=f"{card.name} {card.version}",
            digest=package.digest,
            rows=rows,
            thresholds=(card.image_threshold.value, card.study_threshold.value),
            scope=card.body_parts,
            seen=seen(package, dataset),
        )

    def require_of(self, dataset: Dataset) -> None:
        """Refuse what :meth:`meets` would refuse for its images, as far as it can be told before these are read.

        Raises
        ------
        UsageError
            If there are predictions of images that are not in the data set, or labels or studies differ.
        """
        align(dataset.select(np.isin(dataset.images, self.rows.images)), self.rows)

    def meets(self, card: Card, rows: Predictions) -> Comparison:
        """Test a model, given by its card and its predictions, against this one.

        Raises
        ------
        UsageError
            If the predictions are not of the same images, or none is in scope of both.
        """
        other = align(rows, self.rows)
        both = in_both_scopes(rows, card, self.name, self.scope)
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
            return Comparison(self.name, self.digest, self.seen, (), (), str(error))
        return Comparison(self.name, self.digest, self.seen, images, studies, lacks)


def require_fitting(dataset: Dataset, card: Card, rival: Opponent | ModelPackage | None) -> None:
    """Refuse, before a data set's images are read, what would be refused after hours.

    Raises
    ------
    UsageError
        If a model cannot be measured on them, or not compared with its rival.
    """
    require_in_scope(dataset, card)
    if isinstance(rival, ModelPackage):
        in_both_scopes(dataset, card, rival.card.name, rival.card.body_parts)
    elif rival is not None:
        rival.require_of(dataset)
        in_both_scopes(dataset, card, rival.name, rival.scope)


def require_readable(readable: Dataset, card: Card, rival: Opponent | ModelPackage | None) -> None:
    """Refuse what can be told only once it is known which images can be read.

    Raises
    ------
    UsageError
        If a model cannot be measured on these, or a rival's predictions are of others.
    """
    require_in_scope(readable, card)
    if isinstance(rival, Opponent):
        align(readable, rival.rows)
