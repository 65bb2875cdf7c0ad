"""Where in a radiograph a finding lies: boxes and polygons, as masks of the network's input and as targets of a map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xray.images.preprocessing import Preprocessing

FULL_SHARE = 0.3
"""Share of a cell inside a finding from which the cell is a full target."""

_ROUNDING = 1e-9
_SUBPIXELS = 4


@dataclass(frozen=True, slots=True)
class Annotation:
    """One finding in a radiograph, such as a fracture.

    All coordinates are fractions of the image's width and height as it is shown, that is after its EXIF orientation, so
    that they hold for any size that the image is reduced to.

    Attributes
    ----------
    box : tuple of float
        Left, top, width and height, in [0, 1].
    polygons : tuple of tuple of float
        Outlines, each ``(x, y, x, y, ...)`` in [0, 1]; empty where only the box is known.
    """

    box: tuple[float, float, float, float]
    polygons: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that are not fractions, an empty box, and an outline without an area.

        Raises
        ------
        ValueError
            With what is wrong.
        """
        left, top, width, height = self.box
        corners = (left, top, left + width, top + height)
        if not all(
            -_ROUNDING <= value <= 1 + _ROUNDING for value in (*corners, *(v for p in self.polygons for v in p))
        ):
            raise ValueError("it is not inside the image")
        if not (width > 0 and height > 0):
            raise ValueError("the box is empty")
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in self.polygons):
            raise ValueError("a polygon needs three points, each an x and a y")

    @property
    def outlines(self) -> tuple[tuple[float, ...], ...]:
        """The polygons, or the box as one where there are none."""
        left, top, width, height = self.box
        right, bottom = left + width, top + height
        return self.polygons or ((left, top, right, top, right, bottom, left, bottom),)


def mask(annotations: Sequence[Annotation], preprocessing: Preprocessing, height: int, width: int) -> NDArray[np.uint8]:
    """Return where in the network's input the findings lie.

    Parameters
    ----------
    annotations : sequence of Annotation
        The findings of one image.
    preprocessing : Preprocessing
        Size and geometry of the network's input.
    height, width : int
        Size of the decoded image, pixels.

    Returns
    -------
    ndarray of uint8, (size, size)
        255 inside a finding and 0 outside; on its edge, the pixel's share inside.
    """
    size = preprocessing.size
    top, left, box_height, box_width = preprocessing.image_box(height, width)
    inside = np.zeros((size, size), np.uint8)
    for annotation in annotations:
        for outline in annotation.outlines:
            x = left + np.array(outline[::2]) * box_width
            y = top + np.array(outline[1::2]) * box_height
            rows, columns = _pixels_around(y, size), _pixels_around(x, size)
            area = inside[rows, columns]
            np.maximum(area, _coverage(x, y, rows, columns), out=area)
    return inside


def _pixels_around(values: NDArray[np.float64], size: int) -> slice:
    # At least one pixel, also of an outline without width, and of one on the image's edge.
    start = min(max(0, math.floor(values.min())), size - 1)
    return slice(start, max(start + 1, min(size, math.ceil(values.max()))))


def _coverage(x: NDArray[np.float64], y: NDArray[np.float64], rows: slice, columns: slice) -> NDArray[np.uint8]:
    """Return the share of each pixel inside a polygon, 255 for all of it, by the even-odd rule at subpixels."""
    across = columns.start + (np.arange((columns.stop - columns.start) * _SUBPIXELS) + 0.5) / _SUBPIXELS
    down = rows.start + (np.arange((rows.stop - rows.start) * _SUBPIXELS) + 0.5) / _SUBPIXELS
    inside = np.zeros((len(down), len(across)), np.bool_)
    for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
        crossed = np.flatnonzero((down < y0) != (down < y1))
        at = x0 + (down[crossed] - y0) * ((x1 - x0) / (y1 - y0)) if len(crossed) else crossed
        inside[crossed] ^= across < np.asarray(at)[:, None]
    shares = inside.reshape(-1, _SUBPIXELS, len(across) // _SUBPIXELS, _SUBPIXELS).mean(axis=(1, 3))
    covered: NDArray[np.uint8] = np.ceil(shares * 255).astype(np.uint8)
    # A finding that lies between the subpixels is still there.
    return covered if covered.any() else np.ones_like(covered)


def cell_targets(masks: NDArray[np.uint8], cells: int) -> NDArray[np.float32]:
    """Return what a map of ``cells x cells`` should show.

    Parameters
    ----------
    masks : ndarray of uint8, (N, S, S)
        As from :func:`mask`.
    cells : int
        Cells on a side of the map.

    Returns
    -------
    ndarray of float32, (N, cells, cells)
        The share of each cell inside a finding, divided by 0.3, at most 1. Where no cell of an image is covered so far,
        by the share of its most covered cell: each image with a finding has a cell of 1. Without one, all are 0.
    """
    targets = np.empty((len(masks), cells, cells), np.float32)
    # One by one: as float, all masks would take four times their memory.
    for target, pixels in zip(targets, masks, strict=True):
        shares = cell_shares(pixels, cells, cells)
        greatest = shares.max()
        target[:] = np.minimum(1, shares / min(FULL_SHARE, greatest)) if greatest else 0
    return targets


def cell_shares(inside: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
    """Return the share of each cell of a map that is inside a mask.

    Parameters
    ----------
    inside : ndarray of uint8, (S, S)
        As from :func:`mask`.
    rows, columns : int
        Cells of the map.

    Returns
    -------
    ndarray of float32, (rows, columns)
        In [0, 1].
    """
    size = len(inside)
    return np.asarray(_cell_averages(size, rows) @ inside @ _cell_averages(size, columns).T / 255, np.float32)


def _cell_averages(size: int, cells: int) -> NDArray[np.float32]:
    """Return the matrix ``(cells, size)`` that averages pixels over cells, whose edges may divide a pixel."""
    edges = np.arange(cells + 1) * (size / cells)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    averages: NDArray[np.float32] = (np.clip(overlap, 0, None) * (cells / size)).astype(np.float32)
    return averages
