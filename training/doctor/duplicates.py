"""Copies of films within a data set, and the grouping that keeps them on one side of a split."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from training.doctor.exposure import blank
from training.doctor.likeness import Prints, find_alike
from training.doctor.survey import Film, stack_small
from training.groups import join


class Kind(StrEnum):
    """What makes two files copies of one film; the closest that holds."""

    BYTES = "the same bytes"
    PIXELS = "the same pixels in other bytes"
    NEAR = "nearly the same pixels"
    MIRRORED = "mirrored"
    INVERTED = "inverted"
    MIRRORED_INVERTED = "mirrored and inverted"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two examples that hold one film.

    Attributes
    ----------
    first, second : int
        Their places among the films, first < second.
    kind : Kind
        How they are the same.
    correlation : float
        Of their pixels, once turned alike; 1 for the same.
    """

    first: int
    second: int
    kind: Kind
    correlation: float


def find_duplicates(films: Sequence[Film]) -> tuple[Pair, ...]:
    """Find copies among N films.

    Of files with the same content only the first is compared with others, and each of the rest makes a pair with it, so
    a thousand copies of one film are 999 pairs. Blank films are left out: one black frame would join all patients that
    have one.

    Returns
    -------
    tuple of Pair
        No pair twice, in order of kind and place.
    """
    if not films:
        return ()
    small = stack_small(films)
    shown = np.flatnonzero(~blank(small)).tolist()
    same_bytes, distinct = _same([(place, films[place].sha256) for place in shown], Kind.BYTES)
    same_pixels, distinct = _same([(place, films[place].pixels) for place in distinct], Kind.PIXELS)
    aspects = np.array([films[place].height / films[place].width for place in distinct], np.float64)
    return (*same_bytes, *same_pixels, *_alike(distinct, small[distinct], aspects))


def join_groups(groups: Sequence[str], pairs: Iterable[Pair]) -> dict[str, str]:
    """Join the groups that hold copies of each other, and what is joined to them in turn.

    Parameters
    ----------
    groups : sequence of str
        The N examples' own groups.
    pairs : iterable of Pair
        Copies among them.

    Returns
    -------
    dict of str to str
        From a group to the one it is now in; joined ones are called like the first of them in the alphabet.
    """
    return join(groups, ((groups[pair.first], groups[pair.second]) for pair in pairs))


def _same(contents: list[tuple[int, Hashable]], kind: Kind) -> tuple[list[Pair], list[int]]:
    """Pair each example with the first of its content, and return the first of each content."""
    firsts: dict[Hashable, int] = {}
    pairs = []
    for place, content in contents:
        first = firsts.setdefault(content, place)
        if first != place:
            pairs.append(Pair(first, place, kind, 1.0))
    return pairs, list(firsts.values())


def _alike(places: list[int], small: NDArray[np.uint8], aspects: NDArray[np.float64]) -> list[Pair]:
    found: dict[tuple[int, int], Pair] = {}
    prints = Prints.of(small)
    for kind, turned in (
        (Kind.NEAR, prints),
        (Kind.MIRRORED, Prints.of(small[:, :, ::-1])),
        (Kind.INVERTED, Prints.of(255 - small)),
        (Kind.MIRRORED_INVERTED, Prints.of(255 - small[:, :, ::-1])),
    ):
        for like in find_alike(prints, turned, aspects):
            at = places[like.first], places[like.second]
            found.setdefault(at, Pair(*at, kind, like.correlation))
    return list(found.values())
