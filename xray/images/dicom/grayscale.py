"""From a film's stored values to gray, bone bright: DICOM's grayscale pipeline as one table (PS3.4 N.2, PS3.3 C.11).

Every stored value is worked out once, not every pixel: a table of 65,536 entries serves a film of 100 million pixels.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xray.images.dicom import tags
from xray.images.dicom.data_set import DataSet

TAILS = 0.005
"""Share of the pixels below black, and of those above white, where a film has no window: the lead markers and burnt-in
text, which would otherwise take half of the range, cover less than that, and bone covers more."""

LEAST_SPAN = 26
"""Gray levels, a tenth of all, that the pixels between the tails must span: a window that leaves less is wrong."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cells:
    """How cells of 8 or 16 bits hold the stored values (PS3.5 section 8.1.1).

    Parameters
    ----------
    size : int
        Bits of a cell.
    stored : int
        Bits of a value.
    shift : int
        Bits below it.
    signed : bool
        Two's complement.
    clipped : bool
        The cells are a lossy decoder's, and may be over what the bits can hold.
    """

    size: int
    stored: int
    shift: int
    signed: bool
    clipped: bool

    def values(self) -> Values:
        """Return the stored value of each possible cell."""
        cells = np.arange(2**self.size, dtype=np.int64)
        most = 2**self.stored - 1
        if self.clipped and not self.signed:
            return np.asarray(np.minimum(cells, most), np.float64)
        values = (cells >> self.shift) & most
        if self.signed:
            values -= (values > most >> 1) * (most + 1)
        return np.asarray(values, np.float64)


def gray_table(found: DataSet, cells: Cells, counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Make the table from a film's cells to gray.

    In order: padding is set aside (PS3.3 C.7.5.1.1.2), modality LUT or rescale (C.11.1), VOI LUT or window (C.11.2),
    inversion (C.11.6.1.2, or C.7.6.3.1.2), and padding becomes black.

    Parameters
    ----------
    found : DataSet
        The header.
    cells : Cells
        How cells hold values.
    counts : ndarray of int64, shape (2 ** cells.size,)
        How many pixels have each cell.

    Returns
    -------
    ndarray of uint8, shape (2 ** cells.size,)
    """
    stored = cells.values()
    padding = _padding(found, cells, stored)
    if not counts[~padding].any():
        padding[:] = False
    weights = np.where(padding, 0, counts)
    values = _modality(found, stored)
    gray = _voi(found, values)
    if gray is None and cells.stored <= 8:
        # Eight bits are made to be looked at: as in a PNG, they are the gray.
        gray = _linear(values, values.min(), values.max())
    if gray is None or _span(gray, weights) * 255 < LEAST_SPAN:
        gray = _linear(values, *_range(values, weights))
    if _is_inverted(found):
        gray = 1 - gray
    table = np.rint(gray * 255).astype(np.uint8)
    table[padding] = 0
    return table


def _padding(found: DataSet, cells: Cells, stored: Values) -> NDArray[np.bool_]:
    value = found.integers(tags.PADDING_VALUE, signed=cells.signed)[:1]
    limit = found.integers(tags.PADDING_LIMIT, signed=cells.signed)[:1] or value
    if not value:
        return np.zeros(stored.shape, np.bool_)
    low, high = sorted((value[0], limit[0]))
    # Writers pad with 65,535 too, where 12 bits are stored: then it is the whole cell that holds the padding.
    beyond = low < stored.min() or high > stored.max()
    values = replace(cells, stored=cells.size, shift=0).values() if beyond else stored
    return (values >= low) & (values <= high)


def _modality(found: DataSet, stored: Values) -> Values:
    if sequence := found.items.get(tags.MODALITY_LUT_SEQUENCE):
        table = _lookup(sequence[0], stored)
        if table is not None:
            return table[0]
    slope = _first(found.decimals(tags.RESCALE_SLOPE), 1.0)
    intercept = _first(found.decimals(tags.RESCALE_INTERCEPT), 0.0)
    # A slope of zero, or no number, would leave nothing of the film.
    usable = math.isfinite(slope) and math.isfinite(intercept) and 1e-9 < abs(slope) < 1e9 and abs(intercept) < 1e12
    return stored * slope + intercept if usable else stored


def _voi(found: DataSet, values: Values) -> Values | None:
    tables = found.items.get(tags.VOI_LUT_SEQUENCE, [])
    chosen = _chosen([item.text(tags.LUT_EXPLANATION) for item in tables])
    table = _lookup(tables[chosen], values) if tables else None
    if table is not None:
        return np.minimum(table[0] / table[1], 1.0)
    centers, widths = found.decimals(tags.WINDOW_CENTER), found.decimals(tags.WINDOW_WIDTH)
    pairs = list(zip(centers, widths, strict=False))
    if not pairs:
        return None
    center, width = pairs[_chosen(found.texts(tags.WINDOW_EXPLANATION)[: len(pairs)])]
    function = found.text(tags.VOI_LUT_FUNCTION).upper()
    least = 1e-9 if function in ("SIGMOID", "LINEAR_EXACT") else 1.0
    if not (math.isfinite(center) and math.isfinite(width) and least <= width < 1e12 and abs(center) < 1e12):
        return None
    return _window(values, center, width, function)


def _chosen(explanations: list[str]) -> int:
    # Of several views a film may be shown in (C.11.2.1), the plain one; else the writer's first.
    return next((place for place, text in enumerate(explanations) if text.upper() == "NORMAL"), 0)


def _window(values: Values, center: float, width: float, function: str) -> Values:
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _lookup(item: DataSet, values: Values) -> tuple[Values, float] | None:
    # C.11.1.1: number of entries (0 for 65,536), first value mapped, bits of an entry.
    descriptor = item.integers(tags.LUT_DESCRIPTOR)
    if len(descriptor) < 3:
        return None
    count, first, bits = descriptor[0] or 65536, descriptor[1], descriptor[2]
    # The first value is signed where the values that it is compared with are.
    if values.min() < 0 and first >= 2**15:
        first -= 2**16
    data = item.values.get(tags.LUT_DATA, b"")
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if item.encoding.byteorder == "little" else ">u2")
    # Entries of 8 bits may be packed two in a word.
    entries = words if words.size >= count else np.frombuffer(data, np.uint8)
    if entries.size < count or not 1 <= bits <= 16:
        return None
    table = entries[:count].astype(np.float64)
    # Some writers give fewer bits than their entries have.
    most = max(2.0**bits - 1, 2.0 ** math.ceil(math.log2(table.max() + 1)) - 1)
    return table[np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)], most


def _is_inverted(found: DataSet) -> bool:
    # For DX the shape is INVERSE where the photometric interpretation is MONOCHROME1: one inversion, said twice.
    shape = found.text(tags.PRESENTATION_LUT_SHAPE).upper()
    if shape in ("IDENTITY", "INVERSE"):
        return shape == "INVERSE"
    return found.text(tags.PHOTOMETRIC).upper() == "MONOCHROME1"


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
    low, high = np.quantile(values, (TAILS, 1 - TAILS), weights=weights, method="inverted_cdf")
    return float(low), float(high)


def _first(numbers: list[float], default: float) -> float:
    return numbers[0] if numbers else default
