"""A data set as an audit checks it: its files, its duplicates and its split."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.audit.near_duplicates import DuplicatePair, find_duplicates
from training.audit.read_images import AuditedImage
from training.data.dataset import Dataset, Role
from training.data.split import assign_folds, make_split, read_split
from training.progress import Progress
from training.recipes import RECIPES
from xray.errors import UsageError
from xray.vocabulary import Reason

SPLIT_RECIPE = next(recipe for recipe in RECIPES.values() if not recipe.folds)
"""The recipe whose split is checked where none is given; all recipes have the same shares and seed."""

FOLDS_RECIPE = next(recipe for recipe in RECIPES.values() if recipe.folds)
"""The recipe whose cross-validation is checked."""


@dataclass(frozen=True)
class AuditedDataset:
    """A data set, its files and its split.

    Attributes
    ----------
    listed : Dataset
        All labelled images.
    unreadable : mapping of Reason to tuple of str
        Images that cannot be read, by reason.
    dataset : Dataset
        The N labelled images that can be read.
    images : tuple of AuditedImage
        Their files.
    pairs : tuple of DuplicatePair
        Duplicates among them.
    parts : ndarray of str, (N,)
        The part of the split that each belongs to; empty strings where there is no split.
    split : str
        Where the split comes from, or why there is none.
    no_folds : str
        Why cross-validation is not possible, or empty.
    """

    listed: Dataset
    unreadable: Mapping[Reason, tuple[str, ...]]
    dataset: Dataset
    images: tuple[AuditedImage, ...]
    pairs: tuple[DuplicatePair, ...]
    parts: NDArray[np.str_]
    split: str
    no_folds: str

    @property
    def has_split(self) -> bool:
        """Whether there is a split to check."""
        return bool(self.parts.any())


def audit_dataset(
    listed: Dataset, files: Iterable[AuditedImage | Reason], split: Path | None, progress: Progress
) -> AuditedDataset:
    """Combine the files of a data set with its duplicates and its split.

    Parameters
    ----------
    listed : Dataset
        All labelled images.
    files : iterable of AuditedImage or Reason
        The file of each, from :func:`training.audit.read_images.read_images`.
    split : Path or None
        A ``split.csv``. By default the publisher's test part or a drawn one, as a recipe would split the data.
    progress : Progress
        Shows progress while duplicates are looked for.

    Raises
    ------
    UsageError
        If the split cannot be read, or was made for other data.
    """
    read = list(files)
    unreadable: dict[Reason, list[str]] = defaultdict(list)
    for example, file in zip(listed.examples, read, strict=True):
        if isinstance(file, Reason):
            unreadable[file].append(example.image)
    images = tuple(file for file in read if isinstance(file, AuditedImage))
    dataset = listed.select(np.array([isinstance(file, AuditedImage) for file in read], np.bool_))
    parts, source = _assign_parts(dataset, split)
    by_reason = {reason: tuple(names) for reason, names in sorted(unreadable.items())}
    pairs = find_duplicates(images, progress)
    return AuditedDataset(listed, by_reason, dataset, images, pairs, parts, source, _no_folds(dataset))


def _assign_parts(dataset: Dataset, table: Path | None) -> tuple[NDArray[np.str_], str]:
    """Return the part that each image belongs to, ``(N,)``, and where the split comes from."""
    recipe = SPLIT_RECIPE
    if table is not None:
        split, source = read_split(table), str(table)
    else:
        try:
            split = make_split(dataset, validation=recipe.validation, test=recipe.test, seed=recipe.seed)
        except UsageError as error:
            return np.full(len(dataset), "", np.str_), str(error)
        published = any(example.role is Role.TEST for example in dataset.examples)
        source = "the publisher's test part, and a validation part drawn" if published else "drawn by groups"
        source += f" with seed {recipe.seed}, as a recipe would"
    parts = np.full(len(dataset), "", "<U10")
    for role in Role:
        parts[split.mask(dataset, role)] = role.value
    return parts, source


def _no_folds(dataset: Dataset) -> str:
    try:
        assign_folds(dataset.labels, dataset.groups, FOLDS_RECIPE.folds, FOLDS_RECIPE.seed)
    except UsageError as error:
        return str(error)
    return ""
