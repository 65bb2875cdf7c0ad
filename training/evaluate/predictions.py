"""A model's predictions of labelled images: the table from which every metric is computed."""

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.disk import read_table, write_atomically
from xray.errors import UsageError
from xray.network.card import Card
from xray.network.engine import Engine, stored_cams
from xray.vocabulary import count

PREDICTIONS_FILE = "predictions.csv"
COLUMNS = ("image", "study", "group", "body_part", "label", "logit", "probability")
CHUNK = 64
"""Images in one call of the engine."""


@dataclass(frozen=True)
class NetworkOutputs:
    """Outputs of a network for n images.

    Attributes
    ----------
    logits : ndarray of float64, (n,)
        Before calibration.
    cam_maxima : ndarray of float64, (n,)
        The largest value of each image's class activation map, in units of the logit.
    cams : ndarray of float16, (n, h, w)
        The class activation maps, as the database has them.
    distances : ndarray of float64, (n,)
        How unlike the training images each image is, see :class:`xray.network.distance.FeatureDistance`; NaN if the
        network gives none.
    """

    logits: NDArray[np.float64]
    cam_maxima: NDArray[np.float64]
    cams: NDArray[np.float16]
    distances: NDArray[np.float64]

    @classmethod
    def join(cls, parts: Sequence[tuple[NDArray[np.intp], "NetworkOutputs"]]) -> "NetworkOutputs":
        """Join outputs for some images each, given with the images' places, in the order of the places."""
        order = np.argsort(np.concatenate([places for places, _ in parts]), kind="stable")
        return cls(
            *(np.concatenate([getattr(outputs, field.name) for _, outputs in parts])[order] for field in fields(cls))
        )


@dataclass(frozen=True)
class Predictions:
    """Labels and predictions of N images, one row each.

    Attributes
    ----------
    images, studies, groups, body_parts : ndarray of str, (N,)
        As in :class:`training.data.dataset.Example`; ``body_parts`` is empty where unknown.
    labels : ndarray of bool, (N,)
        Human labels, true for positive.
    logits : ndarray of float64, (N,)
        Before calibration.
    probabilities : ndarray of float64, (N,)
        Calibrated, in [0, 1].
    """

    images: NDArray[np.str_]
    studies: NDArray[np.str_]
    groups: NDArray[np.str_]
    body_parts: NDArray[np.str_]
    labels: NDArray[np.bool_]
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    @classmethod
    def of(cls, dataset: Dataset, logits: NDArray[np.floating], probabilities: NDArray[np.floating]) -> "Predictions":
        """Combine the N labels of a data set with a model's N logits and probabilities."""
        return cls(
            dataset.images,
            dataset.studies,
            dataset.groups,
            dataset.body_parts,
            dataset.labels,
            np.asarray(logits, np.float64),
            np.asarray(probabilities, np.float64),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, keep: NDArray[np.bool_]) -> "Predictions":
        """Return the rows where ``keep (N,)`` is true."""
        return Predictions(
            self.images[keep],
            self.studies[keep],
            self.groups[keep],
            self.body_parts[keep],
            self.labels[keep],
            self.logits[keep],
            self.probabilities[keep],
        )

    def by_study(self) -> "Predictions":
        """Return one row a study: its probability is the mean of its images' (Rajpurkar et al. 2018).

        A study is positive if any of its images is; its body part and group are its first image's. Its logit is
        the mean of its images' logits, and ``images`` has the first of them.
        """
        _, first, inverse, counts = np.unique(self.studies, return_index=True, return_inverse=True, return_counts=True)
        return Predictions(
            self.images[first],
            self.studies[first],
            self.groups[first],
            self.body_parts[first],
            np.bincount(inverse, self.labels) > 0,
            np.bincount(inverse, self.logits) / counts,
            np.bincount(inverse, self.probabilities) / counts,
        )

    def write(self, table: Path) -> None:
        """Write the rows as CSV, the whole file or none of it; numbers are read back exactly.

        Raises
        ------
        StorageOutage
            If the table cannot be written.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for row in zip(
            self.images, self.studies, self.groups, self.body_parts, self.labels.astype(int), self.logits,
            self.probabilities, strict=True,
        ):  # fmt: skip
            writer.writerow([*row[:5], repr(float(row[5])), repr(float(row[6]))])
        # A file name that is not in the locale's encoding comes as lone surrogates, which UTF-8 has not.
        write_atomically(table, text.getvalue().encode("utf-8", "backslashreplace"))

    @classmethod
    def read(cls, table: Path) -> "Predictions":
        """Read a table that :meth:`write` has written.

        Raises
        ------
        UsageError
            If the file cannot be read, a column is missing, or a cell is wrong.
        """
        rows = [_check_record(table, line, record) for line, record in read_table(table, COLUMNS)]
        if not rows:
            raise UsageError(f"{table} has no rows")
        text = {column: np.array([row[column] for row in rows], np.str_) for column in COLUMNS[:4]}
        return cls(
            text["image"],
            text["study"],
            text["group"],
            text["body_part"],
            np.array([row["label"] == "1" for row in rows], np.bool_),
            np.array([float(row["logit"]) for row in rows]),
            np.array([float(row["probability"]) for row in rows]),
        )


def _check_record(table: Path, line: int, record: Mapping[str, str]) -> Mapping[str, str]:
    try:
        valid = np.isfinite(float(record["logit"])) and 0 <= float(record["probability"]) <= 1
    except ValueError:
        valid = False
    if not valid or record["label"] not in ("0", "1"):
        raise UsageError(f"{table}, line {line}: not a label 0 or 1, a finite logit and a probability in [0, 1]")
    return record


def infer_outputs(engine: Engine, images: NDArray[np.uint8], step: Callable[[int], None]) -> NetworkOutputs:
    """Run a network on images.

    Parameters
    ----------
    engine : Engine
        The network, ready to run.
    images : ndarray of uint8, (N, size, size)
        Their pixels, prepared as the card's preprocessing says; N > 0.
    step : callable
        Called with the number of images processed since the last call.
    """
    logits, maxima, cams, distances = [], [], [], []
    for start in range(0, len(images), CHUNK):
        inferred = engine.infer(np.ascontiguousarray(images[start : start + CHUNK]))
        logits.append(inferred.logits)
        maxima.append(inferred.cams.max(axis=(1, 2)))
        cams.append(stored_cams(inferred.cams))
        distances.append(np.full(len(inferred.logits), np.nan) if inferred.distances is None else inferred.distances)
        step(len(inferred.logits))
    return NetworkOutputs(
        np.concatenate(logits, dtype=np.float64),
        np.concatenate(maxima, dtype=np.float64),
        np.concatenate(cams),
        np.concatenate(distances, dtype=np.float64),
    )


def in_scope(rows: Predictions | Dataset, scope: Collection[str] | None) -> NDArray[np.bool_]:
    """Return which images, ``(N,)`` bool, are in a model's scope: as in screening, an unknown body part is.

    Parameters
    ----------
    rows : Predictions or Dataset
        N images.
    scope : collection of str or None
        Body parts that the model knows; None is for all.
    """
    if scope is None:
        return np.ones(len(rows), np.bool_)
    return np.isin(rows.body_parts, [*scope, ""])


def in_both_scopes(
    rows: Predictions | Dataset, card: Card, other: str, scope: Collection[str] | None
) -> NDArray[np.bool_]:
    """Return which images, ``(N,)`` bool, are in scope of a model and of another one with this name and scope.

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
    """Raise an error if a model cannot be evaluated on a data set.

    Raises
    ------
    UsageError
        If no image is in scope, or those that are have one class only.
    """
    labels = dataset.labels[in_scope(dataset, card.body_parts)]
    known = f"{card.name} knows {', '.join(card.body_parts)}"
    if not len(labels):
        raise UsageError(f"{count(len(dataset), 'image')}, none in scope: {known}")
    if labels.all() or not labels.any():
        only = "positive" if labels.all() else "negative"
        raise UsageError(
            f"one class only is in scope: {only} ({count(len(labels), 'image')}); both are needed: {known}"
        )
