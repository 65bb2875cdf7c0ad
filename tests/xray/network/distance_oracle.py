"""The distance of features from those of the training images, in NumPy: what the network's layer is compared with."""

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating]


def distance_of(
    pooled: Vector,
    mean: Vector,
    scale: Vector,
    basis: NDArray[np.floating],
    basis_scale: Vector,
    rest_scale: Vector,
) -> float:
    """Return the distance of pooled features ``(C,)``, by the weights of the layer."""
    standardised = (pooled.astype(np.float64) - mean) * scale
    along = standardised @ basis
    left = max(0.0, float(standardised @ standardised - along @ along))
    return float(np.sqrt(((along * basis_scale) ** 2).mean() / 2 + left * rest_scale[0] ** 2 / 2))
