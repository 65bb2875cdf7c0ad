"""FracAtlas as published: a folder of radiographs and ``labels.csv``."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xray.errors import FileFault, UsageError
from xray.pixels import Preprocessing, decode
from xray.vocabulary import Reason

COLUMNS = ("image", "fractured", "hand", "leg", "hip", "shoulder", "group")


@dataclass(frozen=True)
class Row:
    """One labelled radiograph.

    Attributes
    ----------
    image : str
        File name.
    fractured : bool
        The human label.
    group : str
        Near-duplicates share it; a split must not part them.
    upper_limb : bool
        A hand (wrist, forearm and elbow included) or shoulder film, by the published flags.
    """

    image: str
    fractured: bool
    group: str
    upper_limb: bool


@dataclass(frozen=True)
class Dataset:
    """Labelled radiographs in a folder.

    Attributes
    ----------
    folder : Path
        Where the image files lie.
    rows : tuple of Row
        In the order of the file.
    """

    folder: Path
    rows: tuple[Row, ...]

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Human labels, ``(N,)``, true for fractured."""
        return np.array([row.fractured for row in self.rows])

    @property
    def groups(self) -> NDArray[np.str_]:
        """Group keys, ``(N,)``."""
        return np.array([row.group for row in self.rows])

    @property
    def upper_limb(self) -> NDArray[np.bool_]:
        """Which rows are upper-limb films, ``(N,)``."""
        return np.array([row.upper_limb for row in self.rows])

    def select(self, keep: NDArray[np.bool_]) -> "Dataset":
        """Return the data set of the rows where ``keep (N,)`` is true."""
        return Dataset(self.folder, tuple(row for row, kept in zip(self.rows, keep, strict=True) if kept))


def read_fracatlas(folder: Path) -> Dataset:
    """Read ``labels.csv`` of a FracAtlas folder (Abedeen et al. 2023, Scientific Data).

    Parameters
    ----------
    folder : Path
        Holds ``labels.csv`` and ``images/``.

    Raises
    ------
    UsageError
        If the table is missing, lacks a column, has a value that is not 0 or 1, has no rows, or only one class.
    """
    table = folder / "labels.csv"
    if not table.is_file() or not (folder / "images").is_dir():
        raise UsageError(f"{folder} is not a FracAtlas folder: it needs labels.csv and images/")
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(f"{table} has no column {', '.join(missing)}")
        rows = tuple(_row(table, reader.line_num, record) for record in reader)
    if not rows:
        raise UsageError(f"{table} has no rows")
    if len({row.fractured for row in rows}) < 2:
        raise UsageError(f"{table} has one class only: training needs fractured and not fractured images")
    return Dataset(folder / "images", rows)


def load_images(dataset: Dataset, preprocessing: Preprocessing) -> tuple[Dataset, NDArray[np.uint8], Counter[str]]:
    """Decode and preprocess what can be read.

    Parameters
    ----------
    dataset : Dataset
        What to read.
    preprocessing : Preprocessing
        The same as in screening.

    Returns
    -------
    dataset : Dataset
        The N rows that could be read.
    images : ndarray of uint8, (N, size, size)
        Their images.
    skipped : Counter of str
        Files left out, by reason code.

    Raises
    ------
    UsageError
        If no file can be read.
    """
    readable = np.zeros(len(dataset.rows), np.bool_)
    images = []
    skipped: Counter[str] = Counter()
    for index, row in enumerate(dataset.rows):
        try:
            images.append(preprocessing.apply(decode((dataset.folder / row.image).read_bytes())))
            readable[index] = True
        except FileNotFoundError:
            skipped[Reason.VANISHED] += 1
        except FileFault as fault:
            skipped[fault.reason] += 1
    if not images:
        raise UsageError(f"none of the {len(dataset.rows)} images below {dataset.folder} can be read")
    return dataset.select(readable), np.stack(images), skipped


def _row(table: Path, line: int, record: dict[str, str]) -> Row:
    flags = {column: record[column] for column in COLUMNS if column not in ("image", "group")}
    if not record["image"] or Path(record["image"]).name != record["image"]:
        raise UsageError(f"{table}, line {line}: image is not a file name")
    for column, value in flags.items():
        if value not in ("0", "1"):
            raise UsageError(f"{table}, line {line}: {column} is neither 0 nor 1")
    upper_limb = "1" in (flags["hand"], flags["shoulder"])
    return Row(record["image"], flags["fractured"] == "1", record["group"], upper_limb)
