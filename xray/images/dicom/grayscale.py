"""DICOM's grayscale transformations: stored values to gray, bone bright (PS3.3 C.11, PS3.4 N.2).

Stored values -> modality LUT or rescale -> VOI LUT or window -> inversion -> presentation values, here gray of 8 bits.
Each possible stored value is transformed once, and the result is a lookup table for the pixels: 65,536 entries serve an
image of 100 million pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xray.images.dicom import tags
from xray.images.dicom.data_set import DataSet

TAILS = 0.005
"""Share of the pixels that become black, and of those that become white, in an image without a window. Lead markers and
burnt-in text, which would otherwise take half of the range, cover less than that; bone covers more."""

LEAST_SPAN = 26
"""Gray levels, a tenth of all, that the pixels between the tails must span. A window that leaves fewer is wrong."""

Values = NDArray[np.float64]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# Of so many rows one is counted at first, as that mostly shows that a window is right.
_SAMPLING = 8


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the integers of a pixel array hold the stored values (PS3.5 section 8.1.1).

    Attributes
    ----------
    bits_allocated : int
        Bits of an integer, 8 or 16.
    bits_stored : int
        Bits of a stored value.
    shift : int
        Bits below the stored value.
    signed : bool
        Stored values are two's complement.
    lossy : bool
        The integers come from a lossy decoder, and may exceed the greatest stored value.
    """

    bits_allocated: int
    bits_stored: int
    shift: int
    signed: bool
    lossy: bool


@lru_cache(maxsize=16)
def _stored_values(pixel_format: PixelFormat) -> Values:
    """Return the stored value of each integer, ``float64 (2 ** bits_allocated,)``, read-only."""
    integers = np.arange(2**pixel_format.bits_allocated, dtype=np.int64)
    greatest = 2**pixel_format.bits_stored - 1
    if pixel_format.lossy and not pixel_format.signed:
        values = np.minimum(integers, greatest)
    else:
        values = (integers >> pixel_format.shift) & greatest
        if pixel_format.signed:
            values -= (values > greatest >> 1) * (greatest + 1)
    stored: Values = values.astype(np.float64)
    stored.flags.writeable = False
    return stored


def grayscale_table(
    data_set: DataSet, pixel_format: PixelFormat, pixels: Pixels, count: Callable[[Pixels], NDArray[np.int64]]
) -> NDArray[np.uint8]:
    """Make the lookup table from a monochrome image's integers to gray.

    The steps: find the padding (PS3.3 C.7.5.1.1.2), modality LUT or rescale (C.11.1), VOI LUT or window (C.11.2),
    inversion (C.11.6.1.2, or C.7.6.3.1.2), and padding becomes black.

    Parameters
    ----------
    data_set : DataSet
        With the elements `xray.images.dicom.tags.PIXEL_ELEMENTS`.
    pixel_format : PixelFormat
        How the integers hold stored values.
    pixels : ndarray of uint8 or uint16, (H, W)
        The integers.
    count : callable
        Returns how many pixels have each integer, ``int64 (2 ** bits_allocated,)``; all are counted only if need be.

    Returns
    -------
    ndarray of uint8, (2 ** bits_allocated,)
        The gray of each integer, in [0, 255].
    """
    stored = _stored_values(pixel_format)
    padding = _padding(data_set, pixel_format, stored)
    values = _modality_transformation(data_set, stored)
    gray = _voi_transformation(data_set, values)
    if gray is None or not _spans_enough(gray, np.where(padding, 0, count(pixels[::_SAMPLING])), pixels.size):
        gray = _checked(gray, values, padding, count(pixels), pixel_format)
    if _is_inverted(data_set):
        gray = 1 - gray
    table = np.rint(gray * 255).astype(np.uint8)
    table[padding] = 0
    return table


def _checked(
    gray: Values | None,
    values: Values,
    padding: NDArray[np.bool_],
    counts: NDArray[np.int64],
    pixel_format: PixelFormat,
) -> Values:
    """Return the gray that was found for the values, or of a usual range where there is none or it spans too little.

    Padding that leaves no pixels is cleared.
    """
    if not counts[~padding].any():
        padding[:] = False
    weights = np.where(padding, 0, counts)
    if gray is None and pixel_format.bits_stored <= 8:
        # Values of 8 bits are meant for display: they are the gray, as in a PNG.
        gray = _linear(values, values.min(), values.max())
    if gray is None or _span(gray, weights) * 255 < LEAST_SPAN:
        gray = _linear(values, *_range(values, weights))
    return gray


def _spans_enough(gray: Values, sampled: NDArray[np.int64], total: int) -> bool:
    """Tell whether some of an image's pixels already prove that the gray between its tails spans enough.

    Of `total` pixels, more than `TAILS` are among the darkest that were sampled, and as many among the brightest: so
    the tails end at or beyond these.
    """
    present = np.flatnonzero(sampled)
    order = present[np.argsort(gray[present])]
    counts, tail = sampled[order], TAILS * total
    if counts.sum() <= 2 * tail:
        return False
    low = gray[order[np.searchsorted(np.cumsum(counts), tail, side="right")]]
    high = gray[order[::-1][np.searchsorted(np.cumsum(counts[::-1]), tail, side="right")]]
    return bool((high - low) * 255 >= LEAST_SPAN)


def _padding(data_set: DataSet, pixel_format: PixelFormat, stored: Values) -> NDArray[np.bool_]:
    value = data_set.integers(tags.PIXEL_PADDING_VALUE, signed=pixel_format.signed)[:1]
    limit = data_set.integers(tags.PIXEL_PADDING_RANGE_LIMIT, signed=pixel_format.signed)[:1] or value
    if not value:
        return np.zeros(stored.shape, np.bool_)
    low, high = sorted((value[0], limit[0]))
    # Some writers pad with 65,535 where 12 bits are stored: then the padding is in all bits allocated.
    exceeds = low < stored.min() or high > stored.max()
    if exceeds:
        stored = _stored_values(replace(pixel_format, bits_stored=pixel_format.bits_allocated, shift=0))
    return (stored >= low) & (stored <= high)


def _modality_transformation(data_set: DataSet, stored: Values) -> Values:
    if sequence := data_set.items.get(tags.MODALITY_LUT_SEQUENCE):
        looked_up = _look_up(sequence[0], stored)
        if looked_up is not None:
            return looked_up[0]
    slope = _first(data_set.decimals(tags.RESCALE_SLOPE), 1.0)
    intercept = _first(data_set.decimals(tags.RESCALE_INTERCEPT), 0.0)
    # A slope of zero would make all pixels the same.
    usable = math.isfinite(slope) and math.isfinite(intercept) and 1e-9 < abs(slope) < 1e9 and abs(intercept) < 1e12
    return stored * slope + intercept if usable else stored


def _voi_transformation(data_set: DataSet, values: Values) -> Values | None:
    """Apply the first usable of VOI LUT and window: gray in [0, 1], or None if there is neither."""
    luts = data_set.items.get(tags.VOI_LUT_SEQUENCE, [])
    chosen = _choose([item.text(tags.LUT_EXPLANATION) for item in luts])
    looked_up = _look_up(luts[chosen], values) if luts else None
    if looked_up is not None:
        return np.minimum(looked_up[0] / looked_up[1], 1.0)
    centers, widths = data_set.decimals(tags.WINDOW_CENTER), data_set.decimals(tags.WINDOW_WIDTH)
    windows = list(zip(centers, widths, strict=False))
    if not windows:
        return None
    center, width = windows[_choose(data_set.texts(tags.WINDOW_EXPLANATION)[: len(windows)])]
    function = data_set.text(tags.VOI_LUT_FUNCTION).upper()
    least = 1e-9 if function in ("SIGMOID", "LINEAR_EXACT") else 1.0
    if not (math.isfinite(center) and math.isfinite(width) and least <= width < 1e12 and abs(center) < 1e12):
        return None
    return _window(values, center, width, function)


def _choose(explanations: list[str]) -> int:
    # Of several alternative views (C.11.2.1), the normal one, else the first.
    return next((index for index, text in enumerate(explanations) if text.upper() == "NORMAL"), 0)


def _window(values: Values, center: float, width: float, function: str) -> Values:
    """Apply a window (PS3.3 C.11.2.1.2 and C.11.2.1.3): gray in [0, 1]."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _look_up(item: DataSet, values: Values) -> tuple[Values, float] | None:
    """Look values up in a modality or VOI LUT; return the entries and the greatest possible one, None if unusable."""
    # C.11.1.1: number of entries (0 for 65,536), first value mapped, bits of an entry.
    descriptor = item.integers(tags.LUT_DESCRIPTOR)
    if len(descriptor) < 3:
        return None
    count, first, bits = descriptor[0] or 65536, descriptor[1], descriptor[2]
    # The first value mapped is signed if the values are.
    if values.min() < 0 and first >= 2**15:
        first -= 2**16
    data = item.values.get(tags.LUT_DATA, b"")
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if item.encoding.byteorder == "little" else ">u2")
    # Two entries of 8 bits may share a word.
    entries = words if words.size >= count else np.frombuffer(data, np.uint8)
    if entries.size < count or not 1 <= bits <= 16:
        return None
    table = entries[:count].astype(np.float64)
    # Some writers give fewer bits than the entries need.
    greatest = max(2.0**bits - 1, 2.0 ** math.ceil(math.log2(table.max() + 1)) - 1)
    return table[np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)], greatest


def _is_inverted(data_set: DataSet) -> bool:
    # In DX, Presentation LUT Shape is INVERSE for MONOCHROME1: both say the same, so it is inverted once.
    shape = data_set.text(tags.PRESENTATION_LUT_SHAPE).upper()
    if shape in ("IDENTITY", "INVERSE"):
        return shape == "INVERSE"
    return data_set.text(tags.PHOTOMETRIC_INTERPRETATION).upper() == "MONOCHROME1"


def _linear(values: Values, low: float, high: float) -> Values:
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)


def _range(values: Values, weights: NDArray[np.int64]) -> tuple[float, float]:
    low, high = _quantiles(values, weights)
    if high > low:
        return low, high
    present = values[weights > 0]
    return float(present.min()), float(present.max())


def _span(gray: Values, weights: NDArray[np.int64]) -> float:
    low, high = _quantiles(gray, weights)
    return high - low


def _quantiles(values: Values, weights: NDArray[np.int64]) -> tuple[float, float]:
    present = np.flatnonzero(weights)
    low, high = np.quantile(values[present], (TAILS, 1 - TAILS), weights=weights[present], method="inverted_cdf")
    return float(low), float(high)


def _first(numbers: list[float], default: float) -> float:
    return numbers[0] if numbers else default
