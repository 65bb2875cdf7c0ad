"""DICOM's grayscale transformations: stored values to gray, bone bright (PS3.3 C.11, PS3.4 N.2).

Stored values -> modality LUT or rescale -> VOI LUT or window -> inversion -> presentation values, here gray of 8 bits.
Each possible stored value is transformed once, and the result is a lookup table for the pixels: 65,536 entries serve an
image of 100 million pixels.
"""

import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from xray.images.dicom import tags
from xray.images.dicom.data_set import DataSet
from xray.images.dicom.stored_values import PixelFormat, padded, stored_values
from xray.images.gray_range import GrayRange, value_range
from xray.images.plausibility import looks_negative
from xray.vocabulary import Repair

T = TypeVar("T")

LEAST_GAIN = 0.3
"""Where a window shows less than this share of a difference that the whole range would show, the difference is lost."""

MOST_LOST, MOST_LOST_BRIGHT = 0.5, 0.25
"""Share of an image's differences that may be lost, and that may be lost where the image is bright, as bone is. A
window that loses more is not this image's. A good one clips a background or a collimated border, of any size, in which
there is little to see. Measured on 155 radiographs with windows made for them: of those that clip the darkest 10 to
50 % or the brightest 1 to 5 % of the pixels, 98 % and more are kept; of windows of 8 bits, 14 bits or a CT on 12 bits,
none."""

Values = NDArray[np.float64]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# So many rows show whether a window fits; so many pixels of a row are averaged, as noise is no difference to be seen.
# Fewer in a small picture: between few averages a narrow window shows the whole rise, in steps of black and white.
_ROWS, _AVERAGED, _LEAST_CELLS = 16, 8, 64
_SAMPLED_SIDE = 256


def grayscale_table(
    data_set: DataSet, pixel_format: PixelFormat, pixels: Pixels
) -> tuple[NDArray[np.uint8], tuple[Repair, ...]]:
    """Make the lookup table from a monochrome image's integers to gray.

    The steps: find the padding (PS3.3 C.7.5.1.1.2), modality LUT or rescale (C.11.1), VOI LUT or window (C.11.2) if one
    fits the pixels, inversion (`polarity`), and padding becomes black.

    Parameters
    ----------
    data_set : DataSet
        With the elements `xray.images.dicom.tags.PIXEL_ELEMENTS`.
    pixel_format : PixelFormat
        How the integers hold stored values.
    pixels : ndarray of uint8 or uint16, (H, W)
        The integers.

    Returns
    -------
    table : ndarray of uint8, (2 ** bits_allocated,)
        The gray of each integer, in [0, 255].
    repairs : tuple of Repair
        In what the header is wrong: ``WINDOW``, ``CONTRADICTION``.
    """
    stored = stored_values(pixel_format)
    padding = padded(data_set, pixel_format, stored)
    values = _modality_transformation(data_set, stored)
    if bool(padding.any()) and bool(np.all(padding[pixels])):
        padding = np.zeros(stored.shape, np.bool_)
    inverted, contradiction = polarity(data_set)
    gray, repairs = _voi_transformation(data_set, values, stored, inverted, padding, pixels)
    if gray is None and pixel_format.bits_stored <= 8:
        # Values of 8 bits are meant for display: they are the gray, as in a PNG.
        gray = GrayRange(float(values.min()), float(values.max())).gray(values)
    elif gray is None:
        found = value_range(pixels, values, padding)
        gray, padding = found.gray(values), padding | found.boxed(values)
    table = _table(1 - gray if inverted else gray, padding)
    if contradiction:
        repairs += (Repair.CONTRADICTION,)
        if looks_negative(table[_some_of(pixels)]):
            table = _table(gray if inverted else 1 - gray, padding)
    return table, repairs


def _table(gray: Values, padding: NDArray[np.bool_]) -> NDArray[np.uint8]:
    table = np.rint(gray * 255).astype(np.uint8)
    table[padding] = 0
    return table


def _some_of(pixels: Pixels) -> Pixels:
    return pixels[:: max(1, pixels.shape[0] // _SAMPLED_SIDE), :: max(1, pixels.shape[1] // _SAMPLED_SIDE)]


def polarity(data_set: DataSet) -> tuple[bool, bool]:
    """Say whether an image is inverted to make bone bright, and whether its header contradicts itself on that.

    Presentation LUT Shape is ``INVERSE`` for MONOCHROME1 and ``IDENTITY`` for MONOCHROME2 (PS3.3 C.8.11.3): both say
    the same, so the image is inverted once. Of the other two pairs, viewers go by the photometric interpretation; so
    does this, unless the picture is then clearly a negative.
    """
    inverted = data_set.text(tags.PHOTOMETRIC_INTERPRETATION).upper() == "MONOCHROME1"
    shape = data_set.text(tags.PRESENTATION_LUT_SHAPE).upper()
    return inverted, shape == ("IDENTITY" if inverted else "INVERSE")


def _fits(gray: Values, values: Values, inverted: bool, padding: NDArray[np.bool_], rows: Pixels) -> bool | None:
    """Tell whether a window shows most of the differences between neighbours that the image's own range would show.

    None if there are no differences.
    """
    # Too few columns for so many averages are no picture: only whether a window shows anything is asked.
    cells_in_row = _LEAST_CELLS if rows.shape[1] >= _LEAST_CELLS else 2
    width = max(1, min(_AVERAGED, rows.shape[1] // cells_in_row))
    cells = rows[:, : rows.shape[1] // width * width]
    is_padded = bool(padding.any())
    if is_padded and bool(padding[cells].all()):
        return None
    whole = value_range(cells, values, padding).gray(values)
    shape = rows.shape[0], -1, width

    def averaged(table: Values) -> Values:
        averages: Values = np.take(table, cells).reshape(shape).mean(2)
        return averages

    shown = averaged(1 - gray if inverted else gray)
    visible = np.abs(np.diff(averaged(whole)))
    if is_padded:
        apart = averaged(padding.astype(np.float64)) > 0
        visible[apart[:, 1:] | apart[:, :-1]] = 0
    total = float(visible.sum())
    if not total:
        return None
    is_lost = np.abs(np.diff(shown)) < LEAST_GAIN * visible
    is_bright = np.minimum(shown[:, 1:], shown[:, :-1]) > 0.5
    lost, bright = float(visible[is_lost].sum()), float(visible[is_lost & is_bright].sum())
    return lost <= MOST_LOST * total and bright <= MOST_LOST_BRIGHT * total


def _modality_transformation(data_set: DataSet, stored: Values) -> Values:
    if sequence := data_set.items.get(tags.MODALITY_LUT_SEQUENCE):
        looked_up = _look_up(sequence[0], stored)
        if looked_up is not None:
            return looked_up
    slope = _first(data_set.decimals(tags.RESCALE_SLOPE), 1.0)
    intercept = _first(data_set.decimals(tags.RESCALE_INTERCEPT), 0.0)
    # A slope of zero would make all pixels the same.
    usable = math.isfinite(slope) and math.isfinite(intercept) and 1e-9 < abs(slope) < 1e9 and abs(intercept) < 1e12
    return stored * slope + intercept if usable else stored


def _voi_transformation(
    data_set: DataSet, values: Values, stored: Values, inverted: bool, padding: NDArray[np.bool_], pixels: Pixels
) -> tuple[Values | None, tuple[Repair, ...]]:
    """Apply the first VOI LUT or window that fits the pixels: gray in [0, 1], or None if there is none."""
    repairs: tuple[Repair, ...] = ()
    for gray in _candidates(data_set, values, stored):
        # A few rows mostly show that a window fits. Where they do not, all of them decide.
        if _fits(gray, values, inverted, padding, pixels[:: max(1, len(pixels) // _ROWS)]):
            return gray, repairs
        if _fits(gray, values, inverted, padding, pixels) is not False:
            return gray, repairs
        repairs = (Repair.WINDOW,)
    return None, repairs


def _candidates(data_set: DataSet, values: Values, stored: Values) -> Iterator[Values]:
    luts = data_set.items.get(tags.VOI_LUT_SEQUENCE, [])
    for lut in _in_order(luts, [item.text(tags.LUT_EXPLANATION) for item in luts]):
        looked_up = _look_up(lut, values)
        # The brightest entry is white. Descriptors often say 16 bits where the entries have 12 to 15.
        if looked_up is not None and looked_up.max() > 0:
            yield looked_up / looked_up.max()
    function, ordered = data_set.text(tags.VOI_LUT_FUNCTION).upper(), usable_windows(data_set)
    for center, width in ordered:
        yield _window(values, center, width, function)
    if values is not stored:
        # Some writers mean the stored values, before they are rescaled.
        for center, width in ordered:
            yield _window(stored, center, width, function)


def usable_windows(data_set: DataSet) -> list[tuple[float, float]]:
    """Return center and width of a header's windows that can be applied, the one to show first (PS3.3 C.11.2.1.2)."""
    centers, widths = data_set.decimals(tags.WINDOW_CENTER), data_set.decimals(tags.WINDOW_WIDTH)
    windows = list(zip(centers, widths, strict=False))
    least = 1e-9 if data_set.text(tags.VOI_LUT_FUNCTION).upper() in ("SIGMOID", "LINEAR_EXACT") else 1.0
    return [
        (center, width)
        for center, width in _in_order(windows, data_set.texts(tags.WINDOW_EXPLANATION))
        if math.isfinite(center) and math.isfinite(width) and least <= width < 1e12 and abs(center) < 1e12
    ]


def _in_order(views: list[T], explanations: list[str]) -> list[T]:
    # Of several alternative views (C.11.2.1), the normal one comes first, then the order of the header.
    normal = next((index for index, text in enumerate(explanations[: len(views)]) if text.upper() == "NORMAL"), 0)
    return views[normal : normal + 1] + views[:normal] + views[normal + 1 :]


def _window(values: Values, center: float, width: float, function: str) -> Values:
    """Apply a window (PS3.3 C.11.2.1.2 and C.11.2.1.3): gray in [0, 1]."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _look_up(item: DataSet, values: Values) -> Values | None:
    """Look values up in a modality or VOI LUT; None if it is unusable."""
    table = lut_table(item, is_signed=bool(values.min() < 0))
    if table is None:
        return None
    first, entries = table
    places = np.clip(np.rint(values) - first, 0, entries.size - 1).astype(np.int64)
    looked_up: Values = entries[places].astype(np.float64)
    return looked_up


def lut_table(item: DataSet, *, is_signed: bool) -> tuple[int, NDArray[np.unsignedinteger]] | None:
    """Return the first value that a modality or VOI LUT maps, and its entries; None if it is unusable.

    Parameters
    ----------
    item : DataSet
        Of Modality LUT Sequence or VOI LUT Sequence.
    is_signed : bool
        Whether the values that are looked up can be negative: the first value mapped is signed then.
    """
    # C.11.1.1: number of entries (0 for 65,536), first value mapped, bits of an entry.
    descriptor = item.integers(tags.LUT_DESCRIPTOR)
    if len(descriptor) < 2:
        return None
    count, first = descriptor[0] or 65536, descriptor[1]
    if is_signed and first >= 2**15:
        first -= 2**16
    data = item.values.get(tags.LUT_DATA, b"")
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if item.encoding.byteorder == "little" else ">u2")
    # Two entries of 8 bits may share a word, the first in its lower byte.
    packed = (count + 1) // 2 == words.size < count
    # Beyond the entries that are there the last one counts, also where the descriptor promises more.
    entries = words.astype("<u2").view(np.uint8)[:count] if packed else words[:count]
    return (first, entries) if entries.size else None


def _first(numbers: list[float], default: float) -> float:
    return numbers[0] if numbers else default
