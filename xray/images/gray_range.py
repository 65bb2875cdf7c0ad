"""The range of an image's values that becomes black to white, for values of more than 8 bits in PNG, TIFF and DICOM.

Such values mean no gray of their own. The darkest and the brightest half percent are cut off, and so is what is one
value far from all others: a lead marker, a box over burnt-in text, a border without exposure. Such a thing is not
anatomy, and if it set the range, the anatomy would be left with few gray levels. A box also becomes black, as padding.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TAILS = 0.005
"""Share of the pixels that become black, and of those that become white. Hot pixels, lead markers and burnt-in text,
which would otherwise take half of the range, mostly cover less than that; bone covers more."""

GAP = 0.125
"""How far from all others values must be to be left out, in terms of the range of the others."""

LUMP_WIDTH = 0.06
"""Width of the values that are taken for one, in terms of the range of all; half of them are within a quarter of it."""

LEAST_LUMP, LEAST_REST = 0.0005, 0.05
"""Share of the pixels that are left out together, at least, and of those that must remain."""

LEAST_APART = 0.5
"""Share of the others that must not be near scattered pixels that are left out; else those near them count, too."""

LEAST_GAIN = 1.125
"""How much more contrast the others must gain; below that the range is left as it is."""

Values = NDArray[np.float64]
Weights = NDArray[np.int64]
Codes = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

_EXTREMES = 0.0005
_LEAST_LEVELS = 16
_MOST_LUMPS = 6
# Lossy compression smears an edge over blocks of this size, and over their neighbours.
_BLOCK = 8
_MOST_SMEARED, _SMEARED_PER_PIXEL = 0.05, 3
_MOST_SCATTERED = 0.05
# Corners in terms of the outline's length: 0.1 for a square of ten pixels, 0.3 and more for letters and curves.
_MOST_CORNERS = 0.12
_BAND_PIXELS = 2**20
_MOST_COUNTED = 2**19


class GrayRange(NamedTuple):
    """The values that become black and white; values beyond `floor` or `ceiling` are of a box, and become black."""

    low: float
    high: float
    floor: float = -math.inf
    ceiling: float = math.inf

    def gray(self, values: Values) -> Values:
        """Map values to gray in [0, 1]."""
        if self.high <= self.low:
            return np.zeros(values.shape)
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)

    def boxed(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which values are of a box."""
        beyond: NDArray[np.bool_] = (values < self.floor) | (values > self.ceiling)
        return beyond


def value_range(codes: Codes, values: Values, ignored: NDArray[np.bool_] | None = None) -> GrayRange:
    """Find the values that become black and white.

    Parameters
    ----------
    codes : ndarray of unsigned integers, shape (H, W)
        The pixels.
    values : ndarray of float64, shape (K,)
        The value that each code stands for.
    ignored : ndarray of bool, shape (K,), optional
        Codes that do not count, such as padding.

    Returns
    -------
    GrayRange
        From `low` to `low` if all pixels that count have one value.
    """
    counted = np.ones(values.shape, np.bool_) if ignored is None else ~ignored
    weights = count_codes(codes, values.size) * counted
    low, high = tails(values, weights)
    if high <= low:
        present = values[weights > 0]
        low, high = float(present.min()), float(present.max())
    return _without_lumps(codes, values, weights, GrayRange(low, high))


def coded(values: NDArray[Any]) -> tuple[Codes, Values]:
    """Return some of an image's pixels as codes, with the value of each code, for values of any type."""
    step = max(1, round((values.size / _MOST_COUNTED) ** 0.5))
    some = np.ascontiguousarray(values[::step, ::step])
    if some.dtype.kind == "u" and some.dtype.itemsize == 2:
        return some, np.arange(2.0**16)
    found, codes = np.unique(some, return_inverse=True)
    return codes.reshape(some.shape).astype(np.uint32), found.astype(np.float64)


def count_codes(codes: Codes, size: int) -> Weights:
    """Return how many pixels have each code, ``int64 (size,)``."""
    counts = np.zeros(size, np.int64)
    # NumPy converts pixels to indices of 8 bytes each, so it gets a band at a time.
    step = max(1, _BAND_PIXELS // codes.shape[1])
    for top in range(0, codes.shape[0], step):
        counts += np.bincount(codes[top : top + step].ravel(), minlength=size)
    return counts


def tails(values: Values, weights: Weights, share: float = TAILS) -> tuple[float, float]:
    """Return the values below and above which that share of the pixels lies."""
    present = np.flatnonzero(weights)
    low, high = np.quantile(values[present], (share, 1 - share), weights=weights[present], method="inverted_cdf")
    return float(low), float(high)


def _without_lumps(codes: Codes, values: Values, weights: Weights, whole: GrayRange) -> GrayRange:
    total, left, found = int(weights.sum()), np.zeros(values.shape, np.bool_), whole
    floor, ceiling = -math.inf, math.inf
    for _ in range(_MOST_LUMPS):
        lump = _lump(values, weights)
        if lump is None:
            break
        left |= lump
        others = np.where(left, 0, weights)
        apart = np.where(others == 0, 0, _counted_apart(codes, left))
        # Few pixels that lie near most of the image are scattered: what is near them is the image.
        if apart.sum() < LEAST_APART * others.sum() and others.sum() > (1 - _MOST_SCATTERED) * total:
            apart = others
        if apart.sum() < LEAST_REST * total or np.count_nonzero(apart) < _LEAST_LEVELS:
            break
        low, high = tails(values, apart)
        below, above = float(values[lump].max()), float(values[lump].min())
        if high <= low or max(low - below, above - high) < GAP * (high - low):
            break
        if above > high and _is_box(values[codes] > (above + high) / 2):
            ceiling = min(ceiling, (above + high) / 2)
        elif below < low and _is_box(values[codes] < (below + low) / 2):
            floor = max(floor, (below + low) / 2)
        weights, found = apart, GrayRange(low, high, floor, ceiling)
    gains = whole.high - whole.low >= LEAST_GAIN * (found.high - found.low)
    return found if gains else whole._replace(floor=found.floor, ceiling=found.ceiling)


def _is_box(mask: NDArray[np.bool_]) -> bool:
    """Tell rectangles, which have few corners for their outline, from letters and metal."""
    framed = np.pad(mask, 1)
    down, across = framed[1:] ^ framed[:-1], framed[:, 1:] ^ framed[:, :-1]
    corners = np.count_nonzero(down[:, 1:] ^ down[:, :-1])
    return bool(corners <= _MOST_CORNERS * (np.count_nonzero(down) + np.count_nonzero(across)))


def _lump(values: Values, weights: Weights) -> NDArray[np.bool_] | None:
    """Return the values at one end that are nearly one and far from the others, or None."""
    present = np.flatnonzero(weights)
    order = present[np.argsort(values[present], kind="stable")]
    for sign, places in ((1, order), (-1, order[::-1])):
        count = _lump_at_the_top(values[places] * sign, weights[places])
        if count:
            lump = np.zeros(values.shape, np.bool_)
            lump[places[-count:]] = True
            return lump
    return None


def _lump_at_the_top(values: Values, weights: Weights) -> int:
    """Return how many of the values, which ascend, are such a lump at the upper end; 0 if none are."""
    below = np.cumsum(weights)
    total = int(below[-1])

    def quantile(share: float, start: int = 0, end: int | None = None) -> float:
        before = int(below[start - 1]) if start else 0
        last = int(below[-1 if end is None else end - 1])
        return float(values[np.searchsorted(below, before + max(1, share * (last - before)))])

    span = quantile(1 - _EXTREMES) - quantile(_EXTREMES)
    for top in (quantile(1 - _EXTREMES), quantile(1 - TAILS)):
        start = int(np.searchsorted(values, top - LUMP_WIDTH * span))
        if start < _LEAST_LEVELS:
            continue
        share = 1 - int(below[start - 1]) / total
        if not LEAST_LUMP <= share <= 1 - LEAST_REST:
            continue
        if quantile(0.75, start) - quantile(0.25, start) > LUMP_WIDTH / 4 * span:
            continue
        smeared = min(_MOST_SMEARED, max(TAILS, _SMEARED_PER_PIXEL * share))
        low, high = quantile(TAILS, 0, start), quantile(1 - smeared, 0, start)
        if high > low and values[start] - high >= GAP * (high - low):
            return len(values) - start
    return 0


def _counted_apart(codes: Codes, left: NDArray[np.bool_]) -> Weights:
    """Count the pixels that lie in no block, nor beside one, with a pixel of the codes that are left out."""
    height, width = codes.shape
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    blocks = np.zeros((rows + 2, columns + 2), np.bool_)
    for row in range(rows):
        inside = left[codes[row * _BLOCK : (row + 1) * _BLOCK]].any(0)
        blocks[row + 1, 1:-1] = np.logical_or.reduceat(inside, np.arange(0, width, _BLOCK))
    near = blocks[:-2] | blocks[1:-1] | blocks[2:]
    near = near[:, :-2] | near[:, 1:-1] | near[:, 2:]
    counts = np.zeros(left.shape, np.int64)
    for row in range(rows):
        apart = ~np.repeat(near[row], _BLOCK)[:width]
        counts += np.bincount(codes[row * _BLOCK : (row + 1) * _BLOCK, apart].ravel(), minlength=left.size)
    return counts
