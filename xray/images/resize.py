"""Resize gray images with an antialiased bilinear filter, in floating point and several times as fast as Pillow."""

import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Images with a longer side are left to Pillow: the weights here take 16 bytes a line, and thrice that in the making.
_LONGEST_SIDE = 20_000

# Weights are kept only of sides up to this length, so the memory is bounded whatever the sizes of images are: 4,096
# lines to 224 take 70 KB, and 100 KB in bands, so all that is kept takes 11 MB at most (31 MB where results have 4,096
# lines too). Making them takes half a millisecond.
_LONGEST_KEPT_SIDE = 4096
_KEPT_SIDES = 64

# Rows that are converted to floating point at a time: so few bytes that a core's cache and the allocator keep them, but
# several times as many rows as a result row is made of, as bands overlap by these.
_BAND_BYTES = 2**18
_LEAST_BAND = 8

# Rows of 512 pixels would share few lines of the cache when they are transposed, which then takes five times as long.
_PADDING = 16

# New memory costs more than the arithmetic: each page's first use takes about a microsecond.
_KEPT_BYTES = 2**23
_kept = threading.local()


def _scratch(name: str, rows: int, columns: int) -> NDArray[np.float32]:
    """Return memory that this thread uses again for the next image, unless it is large."""
    size = rows * columns
    if 4 * size > _KEPT_BYTES:
        return np.empty((rows, columns), np.float32)
    memory: NDArray[np.float32] | None = getattr(_kept, name, None)
    if memory is None or memory.size < size:
        memory = np.empty(size, np.float32)
        setattr(_kept, name, memory)
    return memory[:size].reshape(rows, columns)


def resize(gray: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize an image with the triangle filter, its support scaled to the reduction.

    Pillow's ``resize`` with ``Resampling.BILINEAR`` computes the same weights, but rounds to whole gray levels between
    the two directions too. Here only the result is rounded, so the two differ by one level at most. Images of more than
    20,000 pixels in a direction are resized by Pillow itself. Thread-safe; the GIL is released.

    Parameters
    ----------
    gray : ndarray of uint8, shape (H, W)
        The image.
    height, width : int
        Size of the result, pixels.

    Returns
    -------
    ndarray of uint8, shape (height, width)
    """
    rows, columns = gray.shape
    if max(rows, columns, height, width) > _LONGEST_SIDE:
        return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))
    resized = _scratch("resized", height, columns + _PADDING)[:, :columns]
    most = max(_BAND_BYTES // (4 * columns), _LEAST_BAND * -(-rows // height))
    bands = (_kept_bands if max(rows, height) <= _LONGEST_KEPT_SIDE else _bands)(rows, height, most)
    for top, bottom, start, end, weights in bands:
        band = _scratch("band", end - start, columns)
        band[:] = gray[start:end]
        resized[top:bottom] = weights @ band
    turned = _scratch("turned", columns, height)
    turned[:] = resized.T
    weights = (_kept_weights if max(columns, width) <= _LONGEST_KEPT_SIDE else _weights)(columns, width)[2]
    across: NDArray[np.float32] = weights @ turned
    np.rint(across, out=across)
    np.clip(across, 0, 255, out=across)
    return across.astype(np.uint8).T


def _bands(length: int, size: int, most: int) -> tuple[tuple[int, int, int, int, Any], ...]:
    """Divide a resizing of `length` lines to `size` into bands of about `most` lines.

    Returns
    -------
    tuple of (int, int, int, int, scipy.sparse.csr_array)
        Of each band: its first line in the result and the one behind its last, the same in the image, and the weights.
    """
    starts, ends, weights = _weights(length, size)
    bands = []
    top = 0
    while top < size:
        bottom = top + 1
        while bottom < size and ends[bottom] - starts[top] <= most:
            bottom += 1
        start, end = int(starts[top]), int(ends[bottom - 1])
        bands.append((top, bottom, start, end, weights[top:bottom, start:end]))
        top = bottom
    return tuple(bands)


def _weights(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Any]:
    """Return each result line's first line, the one behind its last, and the weights, ``(size, length)``, sparse."""
    # Imported with the first image: only processes that load images need it.
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    scale = length / size
    reach = max(1.0, scale)
    centers = (np.arange(size) + 0.5) * scale
    starts = np.maximum(0, np.floor(centers - reach + 0.5)).astype(np.intp)
    ends = np.minimum(length, np.floor(centers + reach + 0.5)).astype(np.intp)
    counts = ends - starts
    offsets = np.concatenate([[0], np.cumsum(counts)])
    lines = (np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, counts)).astype(np.int32)
    weights = np.maximum(0, 1 - np.abs(lines + 0.5 - np.repeat(centers, counts)) / reach)
    weights /= np.repeat(np.add.reduceat(weights, offsets[:-1]), counts)
    return starts, ends, csr_array((weights.astype(np.float32), lines, offsets.astype(np.int32)), shape=(size, length))


_kept_bands = lru_cache(_KEPT_SIDES)(_bands)
_kept_weights = lru_cache(_KEPT_SIDES)(_weights)
