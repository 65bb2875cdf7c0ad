"""Which groups a model learns from, which stop it in time, and which test it; seeded, stratified, never parted."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from training.dataset import Dataset, Role
from training.sources.tables import read_table
from xray.errors import UsageError

SPLIT_FILE = "split.csv"


@dataclass(frozen=True)
class Split:
    """What each group's images are for.

    Attributes
    ----------
    roles : mapping of str to Role
        From group to role; a group has one.
    """

    roles: Mapping[str, Role]

    def part(self, dataset: Dataset, role: Role) -> Dataset:
        """Return the examples of one role.

        Raises
        ------
        UsageError
            If one of the data set's groups has no role here, or the part has not both classes.
        """
        part = dataset.select(self.mask(dataset, role))
        part.require_both_classes(f"the {role} part")
        return part

    def mask(self, dataset: Dataset, role: Role) -> NDArray[np.bool_]:
        """Return which examples have one role, ``(N,)`` bool.

        Raises
        ------
        UsageError
            If one of the data set's groups has no role here.
        """
        unknown = next((group for group in dataset.groups.tolist() if group not in self.roles), None)
        if unknown is not None:
            raise UsageError(f"the split says nothing of the group {unknown!r}: it was made for other data")
        return np.array([self.roles[group] == role for group in dataset.groups.tolist()], np.bool_)

    def to_csv(self) -> str:
        """Return the split as CSV text, ``group,role``, the same text for the same split."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("group", "role"))
        writer.writerows(sorted(self.roles.items()))
        return text.getvalue()


def read_split(table: Path) -> Split:
    """Read a ``split.csv``, a package's or your own.

    Raises
    ------
    UsageError
        If it cannot be read, names another role, or puts a group into two parts.
    """
    roles: dict[str, Role] = {}
    for line, record in read_table(table, ("group", "role")):
        try:
            role = Role(record["role"])
        except ValueError as error:
            known = ", ".join(Role)
            raise UsageError(f"{table}, line {line}: the role {record['role']!r} is none of {known}") from error
        group = record["group"]
        if roles.setdefault(group, role) != role:
            raise UsageError(f"{table}, line {line}: the group {group!r} is in two parts, {roles[group]} and {role}")
    return Split(roles)


def make_split(dataset: Dataset, *, validation: float, test: float, seed: int) -> Split:
    """Split a data set by groups, with classes as balanced as groups allow.

    Where the publisher has parted training from test data, that stands, and only a validation part is taken from the
    training data.

    Parameters
    ----------
    dataset : Dataset
        The examples.
    validation, test : float
        Shares of the groups' images, in (0, 0.5]; ``test`` may be 0.
    seed : int
        Of the draw.

    Raises
    ------
    UsageError
        If there are too few groups, or a part has not both classes.
    """
    published = {example.group: example.role for example in dataset.examples if example.role is not None}
    if Role.TEST in published.values():
        roles = {group: published.get(group, Role.TRAIN) for group in dataset.groups.tolist()}
    else:
        roles = dict.fromkeys(dataset.groups.tolist(), Role.TRAIN)
        if test:
            _give(roles, dataset, Role.TEST, test, seed)
    _give(roles, dataset, Role.VALIDATION, validation, seed)
    split = Split(roles)
    for role in sorted(set(roles.values())):
        split.part(dataset, role)
    return split


def assign_folds(labels: NDArray[np.bool_], groups: NDArray[np.str_], folds: int, seed: int) -> NDArray[np.int64]:
    """Assign whole groups to folds, with classes as balanced as groups allow.

    Parameters
    ----------
    labels : ndarray of bool, (N,)
        Human labels.
    groups : ndarray of str, (N,)
        Group keys.
    folds : int
        How many.
    seed : int
        Of the draw.

    Returns
    -------
    ndarray of int64, (N,)
        Each image's fold, in [0, folds).

    Raises
    ------
    UsageError
        If there are fewer groups than folds, or a fold is left with one class.
    """
    if len(np.unique(groups)) < folds:
        raise UsageError(f"{len(np.unique(groups))} groups cannot be cut into {folds} folds")
    assigned = np.full(len(labels), -1, np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(groups, labels, groups)):
        assigned[held_out] = fold
        if len(np.unique(labels[held_out])) < 2:
            raise UsageError(f"the groups leave fold {fold} with one class only; use fewer folds")
    return assigned


def _give(roles: dict[str, Role], dataset: Dataset, role: Role, share: float, seed: int) -> None:
    """Give about this share of the data set, out of what is still there to learn from, another role."""
    left = dataset.select(np.array([roles[group] is Role.TRAIN for group in dataset.groups.tolist()], np.bool_))
    left.require_both_classes("the data to split")
    # one fold of as many as make up the share
    drawn = assign_folds(left.labels, left.groups, max(2, round(len(left) / (share * len(dataset)))), seed) == 0
    roles.update(dict.fromkeys(left.groups[drawn].tolist(), role))
