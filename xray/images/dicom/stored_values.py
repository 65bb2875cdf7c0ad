"""The stored values of a DICOM image: which bits of its pixel cells they are, and with which sign (PS3.5 8.1.1).

The header says so, but some headers are wrong. A picture is smooth, so neighbouring pixels tell: read with the wrong
bits, sign or byte order, values wrap round or become noise.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xray.images.dicom import tags
from xray.images.dicom.data_set import DataSet
from xray.vocabulary import Repair

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_ROWS = 24
# Neighbours that two readings put at different distances: at least so many. Of these, so many must be nearer in the
# other reading. Where a sign would be turned, nearly all must be much nearer, or twice as near and the whole image
# smoother: white letters on black, read as negative, are near to their ground, too.
_LEAST_PAIRS, _LEAST_AGREEMENT, _LEAST_AGREEMENT_ON_SIGN = 16, 0.7, 0.9
_MUCH_NEARER, _NEARER, _SMOOTHER = 8, 2, 0.8
# Mean difference of neighbours in terms of that of any two pixels: up to 0.1 in radiographs, about 1 in noise.
_ROUGH, _MUCH_SMOOTHER = 0.25, 0.4
# Decoded values so far over the greatest stored value, in so many pixels, are no error of a lossy codec.
_FAR_OVER, _TOO_MANY = 1.25, 0.005


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
def stored_values(pixel_format: PixelFormat) -> NDArray[np.float64]:
    """Return the stored value of each integer, ``float64 (2 ** bits_allocated,)``, read-only."""
    integers = np.arange(2**pixel_format.bits_allocated, dtype=np.int64)
    greatest = 2**pixel_format.bits_stored - 1
    if pixel_format.lossy and not pixel_format.signed:
        values = np.minimum(integers, greatest)
    else:
        values = (integers >> pixel_format.shift) & greatest
        if pixel_format.signed:
            values -= (values > greatest >> 1) * (greatest + 1)
    stored: NDArray[np.float64] = values.astype(np.float64)
    stored.flags.writeable = False
    return stored


def padded(data_set: DataSet, pixel_format: PixelFormat, stored: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which integers are padding (PS3.3 C.7.5.1.1.2), ``bool (2 ** bits_allocated,)``."""
    value = data_set.integers(tags.PIXEL_PADDING_VALUE, signed=pixel_format.signed)[:1]
    limit = data_set.integers(tags.PIXEL_PADDING_RANGE_LIMIT, signed=pixel_format.signed)[:1] or value
    if not value:
        return np.zeros(stored.shape, np.bool_)
    low, high = sorted((value[0], limit[0]))
    # Some writers pad with 65,535 where 12 bits are stored: then the padding is in all bits allocated.
    exceeds = low < stored.min() or high > stored.max()
    if exceeds:
        stored = stored_values(replace(pixel_format, bits_stored=pixel_format.bits_allocated, shift=0))
    return (stored >= low) & (stored <= high)


def find_format(
    declared: PixelFormat, data_set: DataSet, pixels: Pixels
) -> tuple[PixelFormat, bool, tuple[Repair, ...]]:
    """Find how the integers hold the stored values: as declared, unless the pixels prove that wrong.

    Parameters
    ----------
    declared : PixelFormat
        As the header says.
    data_set : DataSet
        Has the padding value.
    pixels : ndarray of uint8 or uint16, (H, W)
        The integers.

    Returns
    -------
    pixel_format : PixelFormat
    swapped : bool
        The two bytes of each integer are to be swapped first.
    repairs : tuple of Repair
        In what the header is wrong: ``BITS_STORED``, ``SIGN``, ``BYTE_ORDER``.
    """
    rows: Pixels = pixels[:: max(1, len(pixels) // _ROWS)]
    if rows.shape[1] < 2:
        return declared, False, ()
    if declared.lossy and not declared.signed:
        return _of_lossy(declared, rows)
    paddings = [value[0] & (2**declared.bits_allocated - 1) for tag in _PADDING if (value := data_set.integers(tag))]
    counts = ~np.isin(rows, paddings) if paddings else np.ones(rows.shape, np.bool_)
    chosen, swapped = _best(declared, rows, counts), False
    if declared.bits_allocated == 16 and (roughness := _roughness(_read(chosen, rows), counts)) > _ROUGH:
        other_rows: Pixels = rows.byteswap()
        other = _best(declared, other_rows, counts)
        if _roughness(_read(other, other_rows), counts) < _MUCH_SMOOTHER * roughness:
            chosen, swapped = other, True
    repairs: tuple[Repair, ...] = (Repair.BYTE_ORDER,) if swapped else ()
    if (chosen.bits_stored, chosen.shift) != (declared.bits_stored, declared.shift):
        repairs += (Repair.BITS_STORED,)
    if chosen.signed != declared.signed:
        repairs += (Repair.SIGN,)
    return chosen, swapped, repairs


_PADDING = (tags.PIXEL_PADDING_VALUE, tags.PIXEL_PADDING_RANGE_LIMIT)


def _of_lossy(declared: PixelFormat, rows: Pixels) -> tuple[PixelFormat, bool, tuple[Repair, ...]]:
    greatest = 2**declared.bits_stored - 1
    if np.count_nonzero(rows > _FAR_OVER * greatest) <= _TOO_MANY * rows.size:
        return declared, False, ()
    bits = max(int(rows.max()).bit_length(), declared.bits_stored)
    return replace(declared, bits_stored=bits), False, (Repair.BITS_STORED,)


def _best(declared: PixelFormat, rows: Pixels, counts: NDArray[np.bool_]) -> PixelFormat:
    """Return the smoothest reading of the integers; the declared one, unless another is clearly better."""
    used = int(np.bitwise_or.reduce(rows[counts], initial=0))
    if declared.shift and used < 2**declared.bits_stored and used & ((1 << declared.shift) - 1):
        # The high bit is wrong: all values are in the low bits.
        declared = replace(declared, shift=0)
    # A sign that is wrong makes neighbours differ by nearly all of the range, where the values wrap round.
    jumps = np.abs(np.diff(_read(declared, rows))) > (2 << declared.shift + declared.bits_stored) / 3
    if not used >> (declared.shift + declared.bits_stored) and np.count_nonzero(jumps) < _LEAST_PAIRS:
        return declared
    best = declared
    for bits, shift in ((declared.bits_stored, declared.shift), (declared.bits_allocated, 0)):
        for signed in (declared.signed, not declared.signed):
            other = replace(declared, bits_stored=bits, shift=shift, signed=signed)
            if other != best and _is_smoother(other, best, rows, counts):
                best = other
    return best


def _is_smoother(other: PixelFormat, best: PixelFormat, rows: Pixels, counts: NDArray[np.bool_]) -> bool:
    ours, theirs = _read(best, rows), _read(other, rows)
    near = counts[:, 1:] & counts[:, :-1]
    our_steps, their_steps = (np.abs(np.diff(values))[near] for values in (ours, theirs))
    differ = our_steps != their_steps
    pairs = int(np.count_nonzero(differ))
    if pairs < _LEAST_PAIRS:
        return False
    ours_apart, theirs_apart = our_steps[differ], their_steps[differ]
    ends = np.sort(np.stack([rows[:, 1:], rows[:, :-1]])[:, near][:, differ], axis=0)
    # The edges of one value, as of a white box or hot pixels, which would be at -1, are no picture that wraps round.
    is_one_value = any(int(np.bincount(end).max()) > pairs / 2 for end in ends)
    roughness, their_roughness = _roughness(ours, counts), _roughness(theirs, counts)
    is_much_smoother = roughness > _ROUGH and their_roughness < _MUCH_SMOOTHER * roughness
    if other.signed == best.signed:
        agreement = float(np.mean(theirs_apart < ours_apart))
        return is_much_smoother or (not is_one_value and agreement >= _LEAST_AGREEMENT)
    factor = _NEARER if their_roughness < _SMOOTHER * roughness else _MUCH_NEARER
    agreement = float(np.mean(factor * theirs_apart < ours_apart))
    return not is_one_value and (is_much_smoother or agreement >= _LEAST_AGREEMENT_ON_SIGN)


def _read(pixel_format: PixelFormat, rows: Pixels) -> NDArray[np.int32]:
    """Return the stored values of some integers, shifted up to where they are in the integers."""
    low_bits = 2**pixel_format.bits_stored - 1 << pixel_format.shift
    values: NDArray[np.int32] = rows.astype(np.int32) & np.int32(low_bits)
    if pixel_format.signed:
        values -= (values > low_bits >> 1) * (2 << (pixel_format.shift + pixel_format.bits_stored - 1))
    return values


def _roughness(values: NDArray[np.int32], counts: NDArray[np.bool_]) -> float:
    """Return the mean difference of neighbours in terms of the mean difference of pixels that are far apart."""
    near = counts[:, 1:] & counts[:, :-1]
    # A third of the image away, as many images are nearly symmetrical.
    away = values.shape[0] // 3, values.shape[1] // 3
    far = counts & np.roll(counts, away, (0, 1))
    apart = np.abs(values - np.roll(values, away, (0, 1)))[far].mean() if far.any() else 0.0
    return float(np.abs(np.diff(values))[near].mean() / apart) if near.any() and apart else 0.0
