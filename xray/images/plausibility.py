"""Ask of a decoded picture what every reader would see: that it cannot be a radiograph, or that it is a negative.

A header that lies about byte order, bits or row length seldom makes decoding fail: it makes noise, and a network scores
noise like anything else.

Each threshold was chosen on half of FracAtlas (3,002 readable images, divided by the hash of their names) and on damage
other than that of ``python -m benchmarks.plausibility``, which counts true and false alarms. Beside a threshold stands
the most extreme value of all real images: FracAtlas, 36 large radiographs and 16 DICOM files.
"""

import numpy as np
from numpy.typing import NDArray

from xray.errors import FileFault
from xray.vocabulary import Reason

LEAST_SIDE = 112
"""Of smaller pictures, only blank ones are refused: neighbours in thumbnails of real images are nearly unrelated."""

LEAST_BLANK_SIDE = 16
"""Of lines and dots, nothing is asked."""

WORKING_SIDE = 512
"""Neighbours are compared at the distance that neighbours have in a picture of about this size."""

NOISE = 0.4
"""Mean difference between neighbours, as a share of that between any two pixels; 1 in noise. Real images: to 0.21."""

ONE_LEVEL, ONE_LEVEL_SHARE = 17, 0.98
"""A picture is blank if this share of it is within so many neighbouring gray levels. Real images: to 0.90."""

JUMP, JUMPS = 224, 0.001
"""A step of nearly the whole range, and how many of them a pixel make a picture that has wrapped around, if gray falls
off beside them. Real images: to 0.00016."""

BESIDE, LEAST_FALL, MOST_FALL = 4, 16, 150
"""How far from a jump gray is compared with its bright side, and by how many levels it falls off there."""

JUMPS_IN_COLUMN, JUMPS_IN_ROW = 2, 8
"""Jumps that count in a column and in a row of the sample: collimators and frames are straight, contours are not."""

DISPLACED_ROWS = 0.6
"""Share of rows that fit the row above best when moved by two pixels or more. Real images: to 0.31."""

BORDER_LEVEL, MEDIAN_LEVEL = 0.6, 0.55
"""Levels of a negative's border and of its median from which they are bright, on a scale from its 5th to its 95th
percentile of gray; a positive's are as dark."""

ROUGH_ROWS = 1.5
"""Only if neighbours differ so many times as much down a column as along a row, the rows are compared in full."""


def check_plausible(gray: NDArray[np.uint8]) -> None:
    """Refuse a picture that no reader would take for a radiograph: noise, blank, wrapped around, or of displaced rows.

    A sample of 4,000 pixels clears nearly every radiograph, and only the others are looked at more closely. Neither
    takes longer for a larger picture. A negative is not refused: see `looks_negative`.

    Parameters
    ----------
    gray : ndarray of uint8, shape (H, W)
        The decoded image at full size.

    Raises
    ------
    FileFault
        With the reason ``implausible`` and what is wrong.
    """
    if not _is_clearly_plausible(gray) and (detail := _find_fault(gray)):
        raise FileFault(Reason.IMPLAUSIBLE, detail)


def looks_negative(gray: NDArray[np.uint8]) -> bool | None:
    """Tell whether a picture shows bright air around dark bone, as an inverted radiograph does.

    Air is at the border of a radiograph and covers most of it, but so may a white collimator. So both the whole picture
    and what is left of it without the plain lines at its sides must have a bright border and a bright median.
    `docs/dicom.md` says how often that is right.

    Parameters
    ----------
    gray : ndarray of uint8, shape (H, W)
        The picture; sampled, so its size does not count.

    Returns
    -------
    bool or None
        True for a negative, False for bone bright, None in doubt.
    """
    down, along = (max(1, side // 64) for side in gray.shape)
    small = gray[down // 2 :: down, along // 2 :: along]
    low, high = np.percentile(small, (5, 95)).tolist()
    inner = _without_plain_sides(small, 0.1 * (high - low))
    if high - low < 1 or min(inner.shape) < 8:
        return None
    levels = [
        ((border - low) / (high - low), (median - low) / (high - low))
        for border, median in map(_medians, (small, inner))
    ]
    if all(border > BORDER_LEVEL and median > MEDIAN_LEVEL for border, median in levels):
        return True
    if all(border < 1 - BORDER_LEVEL and median < 1 - MEDIAN_LEVEL for border, median in levels):
        return False
    return None


def _medians(small: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the median of a picture's border and of all of it."""
    width = max(1, min(small.shape) // 16)
    inside = np.zeros(small.shape, np.bool_)
    inside[width:-width, width:-width] = True
    return float(np.median(small[~inside])), float(np.median(small))


def _without_plain_sides(small: NDArray[np.uint8], least_range: float) -> NDArray[np.uint8]:
    """Cut off the outer columns, then rows, in which gray hardly changes."""
    for _ in range(2):
        low, high = np.percentile(small, (10, 90), axis=0)
        kept = np.flatnonzero(high - low > least_range)
        small = small[:, kept[0] : kept[-1] + 1].T if kept.size else small[:, :0].T
        if not small.size:
            break
    return small


class _Sample:
    """Pixels ``(R, C)`` in about so many rows and columns, and their neighbours to the right and below, ``(2, R, C)``.

    Few calls of NumPy on contiguous pixels, as the overhead of each call counts here.
    """

    def __init__(self, gray: NDArray[np.uint8], rows: int, columns: int) -> None:
        height, width = gray.shape
        # Odd, as pixels of two bytes that are read as one byte each repeat after two.
        self.distance = distance = max(height, width) // WORKING_SIDE | 1
        bottom, end = height - distance, width - distance
        self.down, self.along = down, along = max(1, bottom // rows), max(1, end // columns)
        self.top = top = down // 2
        self.pixels = np.ascontiguousarray(gray[top:bottom:down, :end:along])
        self.neighbours = np.empty((2, *self.pixels.shape), np.uint8)
        self.neighbours[0] = gray[top:bottom:down, distance::along]
        self.neighbours[1] = gray[top + distance :: down, :end:along]


def _difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.maximum(one, other) - np.minimum(one, other)


def _is_clearly_plausible(gray: NDArray[np.uint8]) -> bool:
    """Look at a sample that is small, as this is done for each image; False asks for a closer look."""
    if min(gray.shape) < LEAST_SIDE:
        return False
    sample = _Sample(gray, 8, 512)
    pixels, steps = sample.pixels, _difference(sample.pixels, sample.neighbours)
    rough = steps > 16
    rough_along, rough_down = np.count_nonzero(rough[0]), np.count_nonzero(rough[1])
    # Each pixel of the upper half, and one about half the picture's height and width away.
    flat = pixels.ravel()
    pairs = (flat.size - pixels.shape[1]) // 2
    far = np.count_nonzero(_difference(flat[:pairs], flat[-pairs:]) > 32)
    return bool(
        far > 0.05 * pairs
        # In noise, as many neighbours differ as other pixels: twice as many as there are in half of the picture.
        and max(rough_along, rough_down) < far
        and rough_down < ROUGH_ROWS * rough_along + 0.01 * flat.size
        and np.count_nonzero(steps >= JUMP) < 2
    )


def _find_fault(gray: NDArray[np.uint8]) -> str | None:
    """Look at a picture closely; return what is wrong with it, or None."""
    if min(gray.shape) < LEAST_BLANK_SIDE:
        return None
    pixels = gray[:: max(1, gray.shape[0] // 64), :: max(1, gray.shape[1] // 256)]
    levels = np.bincount(pixels.ravel(), minlength=256)
    if fault := _find_blank(levels):
        return fault
    if min(gray.shape) < LEAST_SIDE:
        return None
    sample = _Sample(gray, 64, 256)
    below_level = np.cumsum(levels) / levels.sum()
    any_two = 2 * float((below_level * (1 - below_level)).sum())
    along, down = _difference(sample.pixels, sample.neighbours).mean(axis=(1, 2)).tolist()
    if max(along, down) > NOISE * any_two:
        return "neighbouring pixels are unrelated, as in noise: wrong byte order, bits or row length, or encrypted"
    if down > ROUGH_ROWS * along and _displaced_rows(gray) > DISPLACED_ROWS:
        return "rows are displaced against each other: wrong row length"
    # Contours are lines: of a smaller picture's neighbours, a larger share lies across one.
    if _share_of_jumps(gray) * min(1.0, max(gray.shape) / WORKING_SIDE) > JUMPS:
        return "gray levels wrap around, black beside white along contours: wrong byte order or bits"
    return None


def _find_blank(levels: NDArray[np.int64]) -> str | None:
    shares = np.convolve(levels / levels.sum(), np.ones(ONE_LEVEL), "valid")
    fullest = int(shares.argmax())
    if shares[fullest] < ONE_LEVEL_SHARE:
        return None
    ends = {0: "black", len(shares) - 1: "white"}
    return f"at least {ONE_LEVEL_SHARE:.0%} of the picture is {ends.get(fullest, 'of one gray')}"


def _share_of_jumps(gray: NDArray[np.uint8]) -> float:
    """Return the number of jumps to a neighbour along or down from which the bright side falls off, by pixel sampled.

    Gray that wraps around rises to white before it starts again from black. Frames, collimators and burnt-in text are
    as sharp, but stay white or are black again. Straight lines count little, as frames may glow.
    """
    sample = _Sample(gray, 64, 256)
    jumps = _difference(sample.pixels, sample.neighbours) >= JUMP
    for axis, (found, neighbours) in enumerate(zip(jumps, sample.neighbours, strict=True)):
        row, column = np.nonzero(found)
        pixel, neighbour = sample.pixels[found], neighbours[found]
        place = [sample.top + row * sample.down, column * sample.along]
        outward = np.where(pixel > neighbour, -BESIDE, BESIDE + 1) * sample.distance
        place[1 - axis] = np.clip(place[1 - axis] + outward, 0, gray.shape[1 - axis] - 1)
        fall = np.maximum(pixel, neighbour).astype(np.int16) - gray[tuple(place)]
        found[row, column] = (fall >= LEAST_FALL) & (fall <= MOST_FALL)
    counted = (
        np.minimum(jumps[0].sum(axis=0), JUMPS_IN_COLUMN).sum() + np.minimum(jumps[1].sum(axis=1), JUMPS_IN_ROW).sum()
    )
    return float(counted) / sample.pixels.size


def _displaced_rows(gray: NDArray[np.uint8]) -> float:
    """Return the share of rows that fit the row above best when moved by two pixels or more, by cross-correlation."""
    start = max(0, gray.shape[1] // 2 - 1024)
    rows = np.linspace(1, gray.shape[0] - 2, 24).astype(np.intp)
    profiles = []
    for lines in (gray[rows, start : start + 2048], gray[rows + 1, start : start + 2048]):
        # Slopes of the row, smoothed, as noise and a slow rise of gray fit everywhere.
        sums = np.cumsum(lines, axis=1, dtype=np.float32)
        smooth = sums[:, 3:] - sums[:, :-3]
        slopes = smooth[:, 3:] - smooth[:, :-3]
        profiles.append(slopes - slopes.mean(axis=1, keepdims=True))
    above, under = profiles
    size = np.sqrt((above**2).sum(axis=1) * (under**2).sum(axis=1))
    clear = size > 0.05 * size.max() + 1
    if np.count_nonzero(clear) < 6:
        return 0.0
    length = above.shape[1]
    spectrum = np.conj(np.fft.rfft(above[clear])) * np.fft.rfft(under[clear])
    fit = np.fft.irfft(spectrum, length) / size[clear, None]
    shift = fit.argmax(axis=1)
    best = fit.max(axis=1)
    moved = (np.minimum(shift, length - shift) >= 2) & (best > 0.5) & (best - fit[:, 0] > 0.2)
    return float(moved.mean())
