"""Groups that must stay together, joined where they hold something in common."""

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


def join(groups: Iterable[str], together: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join groups pair by pair, and what is joined to them in turn.

    Parameters
    ----------
    groups : iterable of str
        All there are.
    together : iterable of tuple of str
        Pairs of them that must be one.

    Returns
    -------
    dict of str to str
        From a group to the one it is now in; joined ones are called like the first of them in the alphabet.
    """
    leader = {group: group for group in groups}

    def find(group: str) -> str:
        while leader[group] != group:
            leader[group] = group = leader[leader[group]]
        return group

    for pair in together:
        one, other = sorted(map(find, pair))
        leader[other] = one
    return {group: find(group) for group in leader}


def regroup(dataset: Dataset, given: Mapping[str, str]) -> Dataset:
    """Return a data set with the groups given for its images, joined where they would part a patient or a study.

    What the data set says belongs together stays together; a note says how many of the groups given were joined.

    Parameters
    ----------
    dataset : Dataset
        With its own groups.
    given : mapping of str to str
        From image to group.

    Raises
    ------
    UsageError
        If an image has no group; it is named.
    """
    first: dict[tuple[str, str], str] = {}
    together = []
    for example in dataset.examples:
        if example.image not in given:
            raise UsageError(f"no group is given for the image {example.image!r}")
        group = given[example.image]
        for own in (("group", example.group), ("study", example.study)):
            together.append((first.setdefault(own, group), group))
    joined = join((given[example.image] for example in dataset.examples), together)
    examples = tuple(replace(example, group=joined[given[example.image]]) for example in dataset.examples)
    fewer = len(joined) - len(set(joined.values()))
    if not fewer:
        return replace(dataset, examples=examples)
    note = (
        f"the groups given part what the data keep together, by their own groups or studies: of {len(joined):,}, "
        f"{len(joined) - fewer:,} are left once they are joined"
    )
    return replace(dataset, examples=examples, notes=(*dataset.notes, note))


def note_tested(dataset: Dataset) -> Dataset:
    """Return a data set with a note of how many of the publisher's training images are tested with, if any are.

    They are in one group with an image of the publisher's test part; see :func:`training.data.split.make_split`.
    """
    tested = {example.group for example in dataset.examples if example.role is Role.TEST}
    moved = sum(example.role is not Role.TEST and example.group in tested for example in dataset.examples)
    if not moved:
        return dataset
    note = (
        f"{moved:,} images that the publisher has not put into the test part are tested with, not learnt from, as "
        "their groups reach into it"
    )
    return replace(dataset, notes=(*dataset.notes, note))


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
        return table_text(("group", "role"), sorted(self.roles.items()))


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
    training data. A group with images in both is tested with as a whole.

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
    roles = dict.fromkeys(dataset.groups.tolist(), Role.TRAIN)
    published = [example.group for example in dataset.examples if example.role is Role.TEST]
    if published:
        roles.update(dict.fromkeys(published, Role.TEST))
    elif test:
        _give(roles, dataset, Role.TEST, test, seed, parts_left=2)
    _give(roles, dataset, Role.VALIDATION, validation, seed, parts_left=1)
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
        If a fold would be left with one class.
    """
    with_positives, with_negatives = _groups_of_each(labels, groups)
    if min(with_positives, with_negatives) >= folds:
        assigned = _fold(labels, groups, folds, seed)
        if all(len(np.unique(labels[assigned == fold])) == 2 for fold in range(folds)):
            return assigned
    raise UsageError(
        f"{len(np.unique(groups)):,} groups cannot be cut into {folds} folds with both labels in each (positive images "
        f"are in {with_positives:,} of them, negative in {with_negatives:,}): train by a recipe without folds, or "
        "gather more groups"
    )


def _give(roles: dict[str, Role], dataset: Dataset, role: Role, share: float, seed: int, *, parts_left: int) -> None:
    """Give about this share of the data set, out of what is still there to learn from, another role.

    Both labels are in what is drawn, and in as many of the groups that are left as parts are still to come of them.
    """
    left = dataset.select(np.array([roles[group] is Role.TRAIN for group in dataset.groups.tolist()], np.bool_))
    left.require_both_classes("the data to split")
    # one fold of as many as make up the share; where groups are few, a larger one
    folds = max(2, round(len(left) / (share * len(dataset))))
    for count in range(min(folds, len(np.unique(left.groups))), 1, -1):
        assigned = _fold(left.labels, left.groups, count, seed)
        for fold in range(count):
            drawn = assigned == fold
            if min(_groups_of_each(left.labels[drawn], left.groups[drawn])) and parts_left <= min(
                _groups_of_each(left.labels[~drawn], left.groups[~drawn])
            ):
                roles.update(dict.fromkeys(left.groups[drawn].tolist(), role))
                return
    positives, negatives = _groups_of_each(left.labels, left.groups)
    raise UsageError(
        f"a {role} part of about {share:.0%} with both labels in it, and enough of both left, cannot be drawn from "
        f"{len(np.unique(left.groups)):,} groups: positive images are in {positives:,} of them, negative in "
        f"{negatives:,}, and {parts_left + 1} of each are needed. Gather more groups, or say the parts with --split"
    )


def _fold(labels: NDArray[np.bool_], groups: NDArray[np.str_], folds: int, seed: int) -> NDArray[np.int64]:
    """Assign whole groups to folds, ``(N,)``; all in the first where no class has so many images."""
    assigned = np.zeros(len(labels), np.int64)
    if folds > max(np.bincount(labels)):
        return assigned
    with warnings.catch_warnings():
        # The callers see to it themselves that both classes are where they are needed.
        warnings.filterwarnings("ignore", "The least populated class")
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(groups, labels, groups)):
            assigned[held_out] = fold
    return assigned


def _groups_of_each(labels: NDArray[np.bool_], groups: NDArray[np.str_]) -> tuple[int, int]:
    """Count the groups that have positive images, and those that have negative ones."""
    return len(np.unique(groups[labels])), len(np.unique(groups[~labels]))
