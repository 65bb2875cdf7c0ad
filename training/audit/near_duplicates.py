"""Duplicates and near duplicates: images of one exposure, found by bytes, pixels, and a perceptual hash.

The hash proposes pairs, and the correlation of pixels and edges decides.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.audit.read_images import AuditedImage, is_blank, stack_small
from training.data.split import merge_groups
from training.progress import Progress

MOST_BITS = 12
"""Bits of 64 in which the hashes of a proposed pair may differ. Proposes 0.2 % of FracAtlas's pairs."""

ASPECT = 0.05
"""Largest difference of the logarithms of height / width: a copy keeps its proportions, apart from rounding."""

ROUGH_CORRELATION = 0.95
"""Least correlation at 16 x 16 pixels, which is cheap to compute and rejects most proposed pairs."""

CORRELATION = 0.975
EDGE_CORRELATION = 0.75

ROWS, CANDIDATES = 64, 2048
"""Hashes that are compared with all others at once, and proposed pairs whose pixels are. They bound the memory."""


class DuplicateKind(StrEnum):
    """How two files show one exposure; a pair has the first kind that applies."""

    BYTES = "the same bytes"
    PIXELS = "the same pixels in other bytes"
    NEAR = "nearly the same pixels"
    MIRRORED = "mirrored"
    INVERTED = "inverted"
    MIRRORED_INVERTED = "mirrored and inverted"


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two images of one exposure.

    Attributes
    ----------
    first, second : int
        Their positions among the images, first < second.
    kind : DuplicateKind
        How they are the same.
    correlation : float
        Correlation of their pixels, after mirroring or inverting one of them, in [-1, 1]; 1 for equal pixels.
    """

    first: int
    second: int
    kind: DuplicateKind
    correlation: float


@dataclass(frozen=True)
class Fingerprints:
    """What N images are compared by.

    Attributes
    ----------
    small : ndarray of uint8, (N, side, side)
        The images, resized to a square.
    hashes : ndarray of uint64, (N,)
        Their DCT hashes (``imagehash.phash``).
    rough : ndarray of float32, (N, side * side / 16)
        Means of 4 x 4 pixels, standardised to mean 0 and length 1.
    """

    small: NDArray[np.uint8]
    hashes: NDArray[np.uint64]
    rough: NDArray[np.float32]

    @classmethod
    def of(cls, small: NDArray[np.uint8]) -> "Fingerprints":
        """Compute the fingerprints of N images ``uint8 (N, side, side)``."""
        count, height, width = small.shape
        means = small.reshape(count, height // 4, 4, width // 4, 4).mean(axis=(2, 4), dtype=np.float32)
        bits = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in small]
        hashes = np.packbits(np.array(bits, np.bool_).reshape(-1, 64), axis=1).view(np.uint64).ravel()
        return cls(small, hashes, _standardised(means))


def find_duplicates(images: Sequence[AuditedImage], progress: Progress) -> tuple[DuplicatePair, ...]:
    """Find the duplicates among N images, and show progress meanwhile.

    Of files with the same content only the first is compared with other images, and each of the rest makes a pair with
    it: a thousand copies of one image are 999 pairs. Blank images are left out, as one black image would otherwise join
    all patients that have one.

    Returns
    -------
    tuple of DuplicatePair
        No pair twice, by kind and position.
    """
    if not images:
        return ()
    small = stack_small(images)
    candidates = np.flatnonzero(~is_blank(small)).tolist()
    same_bytes, distinct = _same_content([(i, images[i].sha256) for i in candidates], DuplicateKind.BYTES)
    same_pixels, distinct = _same_content([(i, images[i].pixels) for i in distinct], DuplicateKind.PIXELS)
    aspects = np.array([images[i].height / images[i].width for i in distinct], np.float64)
    return (*same_bytes, *same_pixels, *_near_duplicates(distinct, small[distinct], aspects, progress))


def join_groups(groups: Sequence[str], pairs: Iterable[DuplicatePair]) -> dict[str, str]:
    """Join the groups that hold duplicates of each other, directly or through other groups.

    Parameters
    ----------
    groups : sequence of str
        The groups of N images.
    pairs : iterable of DuplicatePair
        Duplicates among them.

    Returns
    -------
    dict of str to str
        From a group to the one that it is now in; joined groups get the alphabetically first of their names.
    """
    return merge_groups(groups, ((groups[pair.first], groups[pair.second]) for pair in pairs))


def _same_content(contents: list[tuple[int, Hashable]], kind: DuplicateKind) -> tuple[list[DuplicatePair], list[int]]:
    """Pair each image with the first of the same content; also return the first image of each content."""
    firsts: dict[Hashable, int] = {}
    pairs = []
    for position, content in contents:
        first = firsts.setdefault(content, position)
        if first != position:
            pairs.append(DuplicatePair(first, position, kind, 1.0))
    return pairs, list(firsts.values())


def _near_duplicates(
    positions: list[int], small: NDArray[np.uint8], aspects: NDArray[np.float64], progress: Progress
) -> list[DuplicatePair]:
    found: dict[tuple[int, int], DuplicatePair] = {}
    kinds = (
        (DuplicateKind.NEAR, small),
        (DuplicateKind.MIRRORED, small[:, :, ::-1]),
        (DuplicateKind.INVERTED, 255 - small),
        (DuplicateKind.MIRRORED_INVERTED, 255 - small[:, :, ::-1]),
    )
    fingerprints = Fingerprints.of(small)
    with progress.bar("looking for duplicates", len(kinds) * len(small)) as advance:
        for kind, copies in kinds:
            transformed = fingerprints if kind is DuplicateKind.NEAR else Fingerprints.of(copies)
            for first, second, correlation in _correlated_pairs(fingerprints, transformed, aspects, advance):
                pair = positions[first], positions[second]
                found.setdefault(pair, DuplicatePair(*pair, kind, correlation))
    return list(found.values())


def _correlated_pairs(
    images: Fingerprints, transformed: Fingerprints, aspects: NDArray[np.float64], advance: Callable[[int], None]
) -> Iterator[tuple[int, int, float]]:
    """Find the pairs of images of which one is a copy of the other: re-encoded, resized, brightened.

    Two images of the same view are similar as well: on FracAtlas (3,002 images) shoulders of different people correlate
    up to 0.977 at 64 x 64 pixels. Their edges do not. All 4.5 million pairs were ranked by both correlations and
    reviewed: of those whose pixels correlate to 0.975 or more, the gradients of copies correlate to 0.88 and more,
    those of the others to 0.62 at most. So a pair needs 0.975 in pixels and 0.75 in gradients. A copy that was cropped
    by some per cent or whose gamma was doubled correlates less and is not found; nor are two exposures of one patient
    in the same position.

    Parameters
    ----------
    images : Fingerprints
        Of N images.
    transformed : Fingerprints
        Of the same images as their copies may be: unchanged, mirrored, inverted or both.
    aspects : ndarray of float64, (N,)
        Height / width of the images.
    advance : callable
        Called with the number of images that were compared with all others since the last call.

    Yields
    ------
    int, int, float
        Positions of the two images, first < second, and the correlation of their pixels; in order of position. The time
        is quadratic in N: 40,000 images are 800 million comparisons of hashes.
    """
    for first, second in _proposed_pairs(images.hashes, transformed.hashes, np.log(aspects), advance):
        keep = np.einsum("ij,ij->i", images.rough[first], transformed.rough[second]) >= ROUGH_CORRELATION
        first, second = first[keep], second[keep]
        one, other = images.small[first].astype(np.float32), transformed.small[second].astype(np.float32)
        pixels = _correlation(one, other)
        keep = (pixels >= CORRELATION) & (_correlation(_edges(one), _edges(other)) >= EDGE_CORRELATION)
        yield from zip(first[keep].tolist(), second[keep].tolist(), pixels[keep].tolist(), strict=True)


def _proposed_pairs(
    hashes: NDArray[np.uint64],
    others: NDArray[np.uint64],
    log_aspects: NDArray[np.float64],
    advance: Callable[[int], None],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for start in range(0, len(hashes), ROWS):
        distance = np.bitwise_count(hashes[start : start + ROWS, None] ^ others[None, start:])
        first, second = (positions + start for positions in np.nonzero(distance <= MOST_BITS))
        keep = (first < second) & (np.abs(log_aspects[first] - log_aspects[second]) <= ASPECT)
        first, second = first[keep], second[keep]
        for at in range(0, len(first), CANDIDATES):
            yield first[at : at + CANDIDATES], second[at : at + CANDIDATES]
        advance(min(ROWS, len(hashes) - start))


def _edges(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the horizontal and vertical differences of neighbours, ``(N, 2, side - 1, side - 1)``."""
    return np.stack((np.diff(images, axis=2)[:, 1:], np.diff(images, axis=1)[:, :, 1:]), axis=1)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return Pearson's correlation of each of N pairs, ``(N,)``; 0 where one is constant."""
    return np.asarray(np.einsum("ij,ij->i", _standardised(one), _standardised(other)))


def _standardised(images: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = images.reshape(len(images), int(np.prod(images.shape[1:])))
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.divide(flat, length, out=np.zeros_like(flat), where=length > 0)
    return scaled
