"""The network's distance is fitted to the features of its training images."""

import numpy as np
import pytest

from tests.xray.network.distance_oracle import distance_of
from training.fit.distance import fit_distance

RNG = np.random.default_rng(0)
# Of 12 features, most of the variance is in three directions, and one is always the same.
MIXING = np.concatenate([RNG.normal(size=(3, 12)) * 5, np.eye(12)]) * np.array([*[1.0] * 11, 0.0])


def features(number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(number, 15)) @ MIXING + 100).astype(np.float32)


def test_images_like_the_training_images_are_at_a_distance_of_about_one_and_others_beyond() -> None:
    train, held_out = features(600, 1), features(300, 2)
    fitted = fit_distance(train, np.arange(600) % 2 > 0, 3)
    np.testing.assert_allclose(fitted.basis.T @ fitted.basis, np.eye(3), atol=1e-5)
    near = [distance_of(each, *fitted) for each in held_out]
    assert np.sqrt(np.mean(np.square(near))) == pytest.approx(1, abs=0.1)
    # Along the components and across them.
    along, across = (held_out[0] * 0 + 100 + 20 * direction for direction in (MIXING[0], RNG.normal(size=12)))
    assert min(distance_of(along, *fitted), distance_of(across, *fitted)) > 3 * max(near)


def test_few_positive_images_count_as_much_as_all_negative_ones() -> None:
    negative, positive = features(950, 3), features(50, 4) + np.float32(40) * (np.arange(12) == 5)
    labels = np.arange(1000) >= 950
    fitted = fit_distance(np.concatenate([negative, positive]), labels, 3)
    middle = (negative.mean(axis=0) + positive.mean(axis=0)) / 2
    np.testing.assert_allclose(fitted.mean[5], middle[5], rtol=1e-3)
    ratio = np.mean([distance_of(each, *fitted) for each in positive]) / np.mean(
        [distance_of(each, *fitted) for each in negative]
    )
    assert ratio == pytest.approx(1, abs=0.15)


def test_fewer_images_than_components_give_finite_distances() -> None:
    train = features(4, 5)
    fitted = fit_distance(train, np.array([True, True, False, False]), 8)
    assert all(np.isfinite(weight).all() for weight in fitted)
    assert [weight.shape for weight in fitted] == [(12,), (12,), (12, 8), (8,), (1,)]
    assert (fitted.basis_scale > 0).sum() == 3
    assert np.isfinite(distance_of(train[0] + 1, *fitted))
