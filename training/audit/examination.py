"""Everything the doctor knows of a data set once its files are read, and before it judges."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.audit.near_duplicates import Pair, find_duplicates
from training.audit.survey import AuditedImage
from training.data.dataset import Dataset, Role
from training.data.split import assign_folds, make_split, read_split
from xray.errors import UsageError
from xray.vocabulary import Reason

VALIDATION, TEST, SEED = 0.1, 0.15, 0
"""The split that is looked at where none is given, the recipes' own."""

FOLDS = 5
"""Of the recipes that cross-validate."""


@dataclass(frozen=True)
class Examination:
    """A data set, its files and its split.

    Attributes
    ----------
    listed : Dataset
        All labelled images.
    unreadable : mapping of Reason to tuple of str
        Images that cannot be read, by why.
    dataset : Dataset
        The N examples that can be read.
    films : tuple of Film
        Theirs.
    pairs : tuple of Pair
        Copies among them.
    parts : ndarray of str, (N,)
        What the split uses each for; empty strings where there is no split.
    split : str
        Where the split comes from, or why there is none.
    no_folds : str
        Why there is no cross-validation, or empty.
    """

    listed: Dataset
    unreadable: Mapping[Reason, tuple[str, ...]]
    dataset: Dataset
    films: tuple[AuditedImage, ...]
    pairs: tuple[Pair, ...]
    parts: NDArray[np.str_]
    split: str
    no_folds: str

    @property
    def has_split(self) -> bool:
        """Whether there is a split to look at."""
        return bool(self.parts.any())


def examine(listed: Dataset, files: Iterable[AuditedImage | Reason], split: Path | None) -> Examination:
    """Put together what the survey has seen of a data set with its copies and its split.

    Parameters
    ----------
    listed : Dataset
        All labelled images.
    files : iterable of Film or Reason
        What :func:`training.audit.survey.survey` says of each.
    split : Path or None
        A ``split.csv``. By default the publisher's test part or a drawn one, as a recipe would part the data.

    Raises
    ------
    UsageError
        If the split cannot be read, or was made for other data.
    """
    seen = list(files)
    unreadable: dict[Reason, list[str]] = defaultdict(list)
    for example, file in zip(listed.examples, seen, strict=True):
        if isinstance(file, Reason):
            unreadable[file].append(example.image)
    films = tuple(file for file in seen if isinstance(file, AuditedImage))
    dataset = listed.select(np.array([isinstance(file, AuditedImage) for file in seen], np.bool_))
    parts, source = _parted(dataset, split)
    by_reason = {reason: tuple(images) for reason, images in sorted(unreadable.items())}
    return Examination(listed, by_reason, dataset, films, find_duplicates(films), parts, source, _no_folds(dataset))


def _parted(dataset: Dataset, table: Path | None) -> tuple[NDArray[np.str_], str]:
    """Return what each example is for, ``(N,)``, and who says so."""
    if table is not None:
        split, source = read_split(table), str(table)
    else:
        try:
            split = make_split(dataset, validation=VALIDATION, test=TEST, seed=SEED)
        except UsageError as error:
            return np.full(len(dataset), "", np.str_), str(error)
        published = any(example.role is Role.TEST for example in dataset.examples)
        source = "the publisher's test part and a validation part drawn" if published else "drawn by groups"
        source += f" with seed {SEED}, as a recipe would"
    parts = np.full(len(dataset), "", "<U10")
    for role in Role:
        parts[split.mask(dataset, role)] = role.value
    return parts, source


def _no_folds(dataset: Dataset) -> str:
    try:
        assign_folds(dataset.labels, dataset.groups, FOLDS, SEED)
    except UsageError as error:
        return str(error)
    return ""
