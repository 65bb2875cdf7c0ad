"""A slow bootstrap that draws row by row, as the reference for the fast one."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def group_interval(
    statistic: Callable[[NDArray[np.intp]], float], groups: NDArray[np.generic], *, repeats: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return a 95 % percentile interval from a bootstrap that draws whole groups (Field and Welsh 2007, JRSS B).

    Images of one group are not independent; drawing images one by one would make the interval too narrow.

    Parameters
    ----------
    statistic : callable
        From indices into the data to a number; a resample without both classes, on which it raises ValueError, is
        drawn again.
    groups : ndarray, (N,)
        The group of each image.
    repeats : int
        Number of resamples.
    seed : int
        Seed of the draws.

    Returns
    -------
    tuple of float
        The 2.5th and 97.5th percentile.

    Raises
    ------
    ValueError
        If too few resamples with both classes are found in ten times as many draws.
    """
    rng = np.random.default_rng(seed)
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    values: list[float] = []
    for _ in range(10 * repeats):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        try:
            values.append(statistic(drawn))
        except ValueError:
            continue
        if len(values) == repeats:
            low, high = np.percentile(values, [2.5, 97.5])
            return float(low), float(high)
    raise ValueError("too few resamples have both classes")
