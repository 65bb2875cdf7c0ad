"""Fit the network's distance (`xray.network.distance`) to the features of its training images."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.fit.features import BATCH
from training.fit.inputs import TrainingInputs
from training.fit.learner import COMPONENTS, MIN_DEVIATION, Learner
from training.progress import Progress
from xray.network.engine import padded_batches
from xray.network.keras_engine import compile_forward

LEAST_SHARE = 1e-6
"""A direction with less of the variance than this is rounding; with less in all, its scale would exceed float16."""


class FittedDistance(NamedTuple):
    """Weights of :class:`xray.network.distance.FeatureDistance` for C channels and k components, in its order.

    Attributes
    ----------
    mean, scale : ndarray of float32, (C,)
    basis : ndarray of float32, (C, k)
    basis_scale : ndarray of float32, (k,)
    rest_scale : ndarray of float32, (1,)
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    basis: NDArray[np.float32]
    basis_scale: NDArray[np.float32]
    rest_scale: NDArray[np.float32]


def fit_distance(features: NDArray[np.float32], labels: NDArray[np.bool_], components: int) -> FittedDistance:
    """Fit means, deviations and principal components to features.

    Both labels count as much: otherwise the few positive images, whose features are the farthest from the mean, would
    be most of the false alarms.

    Parameters
    ----------
    features : ndarray of float32, (n, C)
        Pooled features of the training images.
    labels : ndarray of bool, (n,)
        Human labels, of both classes.
    components : int
        Number of principal components, k. Of few images there are fewer: the others are zero and count for nothing.
    """
    weights = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    mean = weights @ features
    scale = 1 / np.maximum(np.sqrt(weights @ (features - mean) ** 2), MIN_DEVIATION)
    standardised = (features - mean) * scale
    # Not by the covariance matrix: of few images with many features, its decomposition takes far longer.
    _, deviations, components_by_row = np.linalg.svd(standardised * np.sqrt(weights)[:, None], full_matrices=False)
    variances = deviations**2
    # What is no more than rounding would be noise, amplified.
    used = variances > LEAST_SHARE * max(1.0, variances.sum())
    found = min(components, int(used.sum()))
    basis, basis_scale = np.zeros((features.shape[1], components)), np.zeros(components)
    basis[:, :found], basis_scale[:found] = components_by_row[:found].T, 1 / deviations[:found]
    left = variances[found:][used[found:]].sum()
    rest_scale = np.array([1 / np.sqrt(left) if left > 0 else 0.0])
    return FittedDistance(*(np.asarray(each, np.float32) for each in (mean, scale, basis, basis_scale, rest_scale)))


def update_distance(learner: Learner, inputs: TrainingInputs, train: NDArray[np.intp], progress: Progress) -> None:
    """Fit the distance of a trained network to its n training images without augmentation, and round it as stored."""
    model = learner.pooling_model()
    forward = compile_forward(model, BATCH)
    pooled = np.empty((len(train), model.output_shape[-1]), np.float32)
    with progress.bar("features of the training images", len(train)) as advance:
        for place, batch in padded_batches(train, BATCH):
            count = place.stop - place.start
            pooled[place] = forward(inputs.features[batch].astype(np.float32))[0][:count]
            advance(count)
    learner.set_distance(*fit_distance(pooled, inputs.labels[train] > 0, COMPONENTS))
