"""Groups that must stay together, joined where they hold something in common."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from training.dataset import Dataset, Role
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

    They are in one group with an image of the publisher's test part; see :func:`training.split.make_split`.
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
