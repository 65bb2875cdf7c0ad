"""Splits and folds that keep groups together, and the groups themselves."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from training.data.dataset import Dataset, Role
from training.disk import read_table, table_text
from xray.errors import UsageError
from xray.vocabulary import count

SPLIT_FILE = "split.csv"


@dataclass(frozen=True)
class Split:
    """The role of each group.

    Attributes
    ----------
    roles : mapping of str to Role
        From group to role.
    """

    roles: Mapping[str, Role]

    def part(self, dataset: Dataset, role: Role) -> Dataset:
        """Return the examples of one role.

        Raises
        ------
        UsageError
            If a group of the data set has no role, or the part does not have both classes.
        """
        part = dataset.select(self.mask(dataset, role))
        part.require_both_classes(f"the {role} part")
        return part

    def mask(self, dataset: Dataset, role: Role) -> NDArray[np.bool_]:
        """Return which examples have a role, ``(N,)`` bool.

        Raises
        ------
        UsageError
            If a group of the data set has no role.
        """
        unknown = next((group for group in dataset.groups.tolist() if group not in self.roles), None)
        if unknown is not None:
            raise UsageError(f"the split has no group {unknown!r}: it was made for other data")
        return np.array([self.roles[group] == role for group in dataset.groups.tolist()], np.bool_)

    def to_csv(self) -> str:
        """Return the split as CSV text, ``group,role``; equal splits give equal text."""
        return table_text(("group", "role"), sorted(self.roles.items()))


def read_split(table: Path) -> Split:
    """Read a ``split.csv``, from a model package or from the user.

    Raises
    ------
    UsageError
        If it cannot be read, has an unknown role, or puts a group into two parts.
    """
    roles: dict[str, Role] = {}
    for line, record in read_table(table, ("group", "role")):
        try:
            role = Role(record["role"])
        except ValueError as error:
            known = ", ".join(Role)
            raise UsageError(
                f"{table}, line {line}: the role must be one of {known}, not {record['role']!r}"
            ) from error
        group = record["group"]
        if roles.setdefault(group, role) != role:
            raise UsageError(f"{table}, line {line}: the group {group!r} is in two parts, {roles[group]} and {role}")
    return Split(roles)


def make_split(dataset: Dataset, *, validation: float, test: float, seed: int) -> Split:
    """Split a data set by groups, stratified by label as far as the groups allow.

    The publisher's test part is kept where there is one, and only a validation part is drawn from the other images. A
    group with images in the publisher's test part belongs to the test part as a whole.

    Parameters
    ----------
    dataset : Dataset
        The examples.
    validation, test : float
        Shares of the images, in (0, 0.5]; ``test`` may be 0.
    seed : int
        Random seed.

    Raises
    ------
    UsageError
        If there are too few groups, or a part does not have both classes.
    """
    roles = dict.fromkeys(dataset.groups.tolist(), Role.TRAIN)
    published = [example.group for example in dataset.examples if example.role is Role.TEST]
    if published:
        roles.update(dict.fromkeys(published, Role.TEST))
    elif test:
        _draw_part(roles, dataset, Role.TEST, test, seed, parts_left=2)
    _draw_part(roles, dataset, Role.VALIDATION, validation, seed, parts_left=1)
    split = Split(roles)
    for role in sorted(set(roles.values())):
        split.part(dataset, role)
    return split


def assign_folds(labels: NDArray[np.bool_], groups: NDArray[np.str_], folds: int, seed: int) -> NDArray[np.int64]:
    """Assign whole groups to folds, stratified by label as far as the groups allow.

    Parameters
    ----------
    labels : ndarray of bool, (N,)
        Human labels.
    groups : ndarray of str, (N,)
        Group keys.
    folds : int
        Number of folds.
    seed : int
        Random seed.

    Returns
    -------
    ndarray of int64, (N,)
        Each image's fold, in [0, folds).

    Raises
    ------
    UsageError
        If a fold would have one class only.
    """
    with_positives, with_negatives = _groups_per_class(labels, groups)
    if min(with_positives, with_negatives) >= folds:
        assigned = _fold(labels, groups, folds, seed)
        if all(len(np.unique(labels[assigned == fold])) == 2 for fold in range(folds)):
            return assigned
    raise UsageError(
        f"{count(len(np.unique(groups)), 'group')} cannot be divided into {folds} folds with both labels in each "
        f"(groups with positive images: {with_positives:,}, with negative images: {with_negatives:,}): use a recipe "
        "without folds, or collect more groups"
    )


def merge_groups(groups: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Merge groups pair by pair: the connected components of a graph.

    Parameters
    ----------
    groups : iterable of str
        All groups.
    pairs : iterable of tuple of str
        Pairs of groups that must be one group.

    Returns
    -------
    dict of str to str
        From each group to its merged group, which has the alphabetically first name of its members.
    """
    leader = {group: group for group in groups}

    def find(group: str) -> str:
        while leader[group] != group:
            leader[group] = group = leader[leader[group]]
        return group

    for pair in pairs:
        one, other = sorted(map(find, pair))
        leader[other] = one
    return {group: find(group) for group in leader}


def regroup(dataset: Dataset, new_groups: Mapping[str, str]) -> Dataset:
    """Return a data set with new groups for its images.

    New groups that would separate images of one of the data set's own groups or studies are merged, and a note says how
    many.

    Parameters
    ----------
    dataset : Dataset
        Labelled images with their own groups.
    new_groups : mapping of str to str
        From image to group.

    Raises
    ------
    UsageError
        If an image has no new group.
    """
    first: dict[tuple[str, str], str] = {}
    pairs = []
    for example in dataset.examples:
        if example.image not in new_groups:
            raise UsageError(f"the groups file has no group for the image {example.image!r}")
        group = new_groups[example.image]
        for own in (("group", example.group), ("study", example.study)):
            pairs.append((first.setdefault(own, group), group))
    merged = merge_groups((new_groups[example.image] for example in dataset.examples), pairs)
    examples = tuple(replace(example, group=merged[new_groups[example.image]]) for example in dataset.examples)
    left = len(set(merged.values()))
    if left == len(merged):
        return replace(dataset, examples=examples)
    note = (
        f"some groups in the groups file separate images of one patient or study, so they were merged: {len(merged):,} "
        f"groups became {left:,}"
    )
    return replace(dataset, examples=examples, notes=(*dataset.notes, note))


def note_moved_to_test(dataset: Dataset) -> Dataset:
    """Add a note with the number of the publisher's training images that `make_split` puts into the test part.

    They share a group with an image of the publisher's test part.
    """
    test_groups = {example.group for example in dataset.examples if example.role is Role.TEST}
    moved = sum(example.role is not Role.TEST and example.group in test_groups for example in dataset.examples)
    if not moved:
        return dataset
    note = (
        f"used for testing, not training: {count(moved, 'image')} from outside the publisher's test part, so that no "
        "group is divided"
    )
    return replace(dataset, notes=(*dataset.notes, note))


def _draw_part(
    roles: dict[str, Role], dataset: Dataset, role: Role, share: float, seed: int, *, parts_left: int
) -> None:
    """Draw about this share of the data set from the training part and give it a different role.

    Both labels are in the drawn part, and each label remains in at least ``parts_left`` groups.
    """
    left = dataset.select(np.array([roles[group] is Role.TRAIN for group in dataset.groups.tolist()], np.bool_))
    left.require_both_classes("the data to split")
    # One of 1 / share folds; if there are few groups, one of fewer and larger folds.
    folds = max(2, round(len(left) / (share * len(dataset))))
    for number in range(min(folds, len(np.unique(left.groups))), 1, -1):
        assigned = _fold(left.labels, left.groups, number, seed)
        for fold in range(number):
            drawn = assigned == fold
            if min(_groups_per_class(left.labels[drawn], left.groups[drawn])) and parts_left <= min(
                _groups_per_class(left.labels[~drawn], left.groups[~drawn])
            ):
                roles.update(dict.fromkeys(left.groups[drawn].tolist(), role))
                return
    positives, negatives = _groups_per_class(left.labels, left.groups)
    drawn_from = count(len(np.unique(left.groups)), "group")
    raise UsageError(
        f"a {role} part of about {share:.0%} with both labels cannot be drawn from {drawn_from} "
        f"(with positive images: {positives:,}, with negative images: {negatives:,}; "
        f"needed: {parts_left + 1} of each). Collect more groups, or give the parts with --split"
    )


def _fold(labels: NDArray[np.bool_], groups: NDArray[np.str_], folds: int, seed: int) -> NDArray[np.int64]:
    """Assign whole groups to folds, ``(N,)``; all to the first fold if no class has this many images."""
    assigned = np.zeros(len(labels), np.int64)
    if folds > max(np.bincount(labels)):
        return assigned
    with warnings.catch_warnings():
        # The callers check that both classes are where they are needed.
        warnings.filterwarnings("ignore", "The least populated class")
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(groups, labels, groups)):
            assigned[held_out] = fold
    return assigned


def _groups_per_class(labels: NDArray[np.bool_], groups: NDArray[np.str_]) -> tuple[int, int]:
    """Count the groups that have positive images, and the groups that have negative ones."""
    return len(np.unique(groups[labels])), len(np.unique(groups[~labels]))
