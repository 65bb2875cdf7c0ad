"""How alike two maps are: by rank, and by structure."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from training.seeing.activations import to_unit_range


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation of two maps' cells.

    Parameters
    ----------
    one, other : ndarray of float, (h, w)
        Signed maps, any scale.

    Returns
    -------
    float
        In [-1, 1]; 0 when a map is the same everywhere, as it orders nothing.

    References
    ----------
    Spearman, "The Proof and Measurement of Association between Two Things", 1904; ties get their mean rank.
    """
    ranks = np.stack([stats.rankdata(one.ravel()), stats.rankdata(other.ravel())])
    if (ranks == ranks[:, :1]).all(axis=1).any():
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def structural_similarity(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    r"""Return SSIM [1]_ of two maps, each first mapped linearly to [0, 1].

    .. math:: \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}
       {(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}, \qquad c_1 = 0.01^2, \; c_2 = 0.03^2

    in one window over the whole map: a map of 7 x 7 cells is about as large as the paper's 8 x 8 window.

    Parameters
    ----------
    one, other : ndarray of float, (h, w)
        Signed maps, any scale.

    Returns
    -------
    float
        In [-1, 1]; 1 for maps that are the same up to scale and offset.

    References
    ----------
    .. [1] Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004.
    """
    x, y = to_unit_range(one), to_unit_range(other)
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * x.mean() * y.mean() + c1) / (x.mean() ** 2 + y.mean() ** 2 + c1)
    structure = (2 * covariance + c2) / (x.var() + y.var() + c2)
    return float(light * structure)
