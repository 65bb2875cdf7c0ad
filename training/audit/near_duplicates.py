"""Which films show the same exposure: a perceptual hash proposes, the correlation of the pixels decides."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.audit.survey import AuditedImage, blank, stack_small
from training.data.split import merge_groups

FARTHEST = 12
"""Bits of 64 in which two hashes may differ. Proposes 0.2 % of FracAtlas's pairs."""

ASPECT = 0.05
"""Difference of the logarithms of height / width: a copy keeps its proportions, but for rounding."""

ROUGHLY_ALIKE = 0.95
"""Correlation at 16 x 16 pixels, which is cheap, below which a pair is not looked at any closer."""

ALIKE = 0.975
EDGES_ALIKE = 0.75

ROWS, CANDIDATES = 64, 2048
"""What is compared at a time: rows of hashes with all others, and proposed pairs by their pixels. Bounds memory."""


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two films that show the same exposure.

    Attributes
    ----------
    first, second : int
        Their places, first < second.
    correlation : float
        Of their pixels, in [-1, 1].
    """

    first: int
    second: int
    correlation: float


@dataclass(frozen=True)
class Fingerprints:
    """What N films are compared by.

    Attributes
    ----------
    small : ndarray of uint8, (N, side, side)
        Films, squashed to a square.
    hashes : ndarray of uint64, (N,)
        Their DCT hashes (``imagehash.phash``).
    rough : ndarray of float32, (N, side * side / 16)
        Means of 4 x 4 pixels, of mean 0 and length 1.
    """

    small: NDArray[np.uint8]
    hashes: NDArray[np.uint64]
    rough: NDArray[np.float32]

    @classmethod
    def of(cls, small: NDArray[np.uint8]) -> "Fingerprints":
        """Take the prints of N films ``uint8 (N, side, side)``."""
        count, height, width = small.shape
        means = small.reshape(count, height // 4, 4, width // 4, 4).mean(axis=(2, 4), dtype=np.float32)
        bits = [imagehash.phash(Image.fromarray(film)).hash.ravel() for film in small]
        hashes = np.packbits(np.array(bits, np.bool_).reshape(-1, 64), axis=1).view(np.uint64).ravel()
        return cls(small, hashes, _standardised(means))


def find_alike(films: Fingerprints, turned: Fingerprints, aspects: NDArray[np.float64]) -> list[NearDuplicate]:
    """Find the pairs of films of which one is a copy of the other: re-encoded, resized, brightened.

    Two films of the same view are alike as well: on FracAtlas (3,002 films) shoulders of different people correlate to
    0.977 at 64 x 64 pixels. Their edges do not. All 4.5 million pairs were ranked by both and looked at: of those whose
    pixels correlate to 0.975 or more, the copies' gradients correlate to 0.88 and more, the others' to 0.62 at most. So
    a pair needs 0.975 in pixels and 0.75 in gradients. A copy that was cropped by some per cent or whose gamma was
    doubled correlates less and is not found, nor are two exposures of one patient in the same position.

    Parameters
    ----------
    films : Prints
        Of N films.
    turned : Prints
        Of the same films as they might come again: as they are, mirrored, inverted or both.
    aspects : ndarray of float64, (N,)
        Height / width of the films.

    Returns
    -------
    list of Likeness
        In order of their places. Time grows with N squared: 40,000 films are 800 million comparisons of hashes.
    """
    found: list[NearDuplicate] = []
    for first, second in _proposed(films.hashes, turned.hashes, np.log(aspects)):
        keep = np.einsum("ij,ij->i", films.rough[first], turned.rough[second]) >= ROUGHLY_ALIKE
        first, second = first[keep], second[keep]
        one, other = films.small[first].astype(np.float32), turned.small[second].astype(np.float32)
        pixels = _correlation(one, other)
        keep = (pixels >= ALIKE) & (_correlation(_edges(one), _edges(other)) >= EDGES_ALIKE)
        found += map(NearDuplicate, first[keep].tolist(), second[keep].tolist(), pixels[keep].tolist())
    return found


def _proposed(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64], shapes: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for start in range(0, len(hashes), ROWS):
        distance = np.bitwise_count(hashes[start : start + ROWS, None] ^ others[None, start:])
        first, second = (places + start for places in np.nonzero(distance <= FARTHEST))
        keep = (first < second) & (np.abs(shapes[first] - shapes[second]) <= ASPECT)
        first, second = first[keep], second[keep]
        for at in range(0, len(first), CANDIDATES):
            yield first[at : at + CANDIDATES], second[at : at + CANDIDATES]


def _edges(films: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the horizontal and vertical differences of neighbours, ``(N, 2, side - 1, side - 1)``."""
    return np.stack((np.diff(films, axis=2)[:, 1:], np.diff(films, axis=1)[:, :, 1:]), axis=1)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return Pearson's correlation of each of N pairs, ``(N,)``; 0 where one is constant."""
    return np.asarray(np.einsum("ij,ij->i", _standardised(one), _standardised(other)))


def _standardised(films: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = films.reshape(len(films), int(np.prod(films.shape[1:])))
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.divide(flat, length, out=np.zeros_like(flat), where=length > 0)
    return scaled


class DuplicateKind(StrEnum):
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
    kind: DuplicateKind
    correlation: float


def find_duplicates(films: Sequence[AuditedImage]) -> tuple[Pair, ...]:
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
    same_bytes, distinct = _same([(place, films[place].sha256) for place in shown], DuplicateKind.BYTES)
    same_pixels, distinct = _same([(place, films[place].pixels) for place in distinct], DuplicateKind.PIXELS)
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
    return merge_groups(groups, ((groups[pair.first], groups[pair.second]) for pair in pairs))


def _same(contents: list[tuple[int, Hashable]], kind: DuplicateKind) -> tuple[list[Pair], list[int]]:
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
    prints = Fingerprints.of(small)
    for kind, turned in (
        (DuplicateKind.NEAR, prints),
        (DuplicateKind.MIRRORED, Fingerprints.of(small[:, :, ::-1])),
        (DuplicateKind.INVERTED, Fingerprints.of(255 - small)),
        (DuplicateKind.MIRRORED_INVERTED, Fingerprints.of(255 - small[:, :, ::-1])),
    ):
        for like in find_alike(prints, turned, aspects):
            at = places[like.first], places[like.second]
            found.setdefault(at, Pair(*at, kind, like.correlation))
    return list(found.values())
