"""Which of a layer's many channels are worth a look on one film."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Channels:
    """The most active channels of a layer on one film, n of them, the most active first.

    Attributes
    ----------
    numbers : ndarray of int64, (n,)
        Their places among the layer's channels, from 0.
    spreads : ndarray of float64, (n,)
        Standard deviation of each over the film, in the activation's own units, not negative.
    grids : ndarray of float32, (n, height, width)
        Their activations over the network's square input.
    """

    numbers: NDArray[np.int64]
    spreads: NDArray[np.float64]
    grids: NDArray[np.float32]


def most_active(
    activation: NDArray[np.float32], count: int, placement: tuple[int, int, int, int], size: int
) -> Channels:
    """Choose the channels that vary most over the film: largest spatial standard deviation, padding left out.

    A channel that is high everywhere tells nothing of where, so the mean is not looked at.

    Parameters
    ----------
    activation : ndarray of float32, (height, width, C)
        A layer's output for one film.
    count : int
        How many to choose; all when the layer has fewer.
    placement : tuple of int
        Top, left, height and width of the film in the square input, pixels; see
        :meth:`xray.pixels.Preprocessing.placement`.
    size : int
        Side of the square input, pixels.
    """
    spreads = film_part(activation, placement, size).std(axis=(0, 1), dtype=np.float64)
    numbers = np.argsort(-spreads, kind="stable")[:count]
    return Channels(numbers, spreads[numbers], np.moveaxis(activation[..., numbers], -1, 0))


def film_part(grid: NDArray[np.float32], placement: tuple[int, int, int, int], size: int) -> NDArray[np.float32]:
    """Return the cells of a grid over the square input that the film touches.

    Parameters
    ----------
    grid : ndarray of float32, (height, width, ...)
        Over the whole square.
    placement : tuple of int
        As of :func:`most_active`.
    size : int
        Side of the square, pixels.
    """
    top, left, film_height, film_width = placement
    height, width = grid.shape[:2]
    rows = slice(top * height // size, -(-(top + film_height) * height // size))
    columns = slice(left * width // size, -(-(left + film_width) * width // size))
    return grid[rows, columns]


def to_unit_range(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map values of any shape linearly to [0, 1], least to greatest; all alike become 0."""
    low, high = float(values.min()), float(values.max())
    return np.asarray(values - low, np.float64) / (high - low) if high > low else np.zeros(values.shape)
