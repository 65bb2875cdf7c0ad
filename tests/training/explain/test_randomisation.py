"""Cascading randomisation: which maps depend on the weights of a network."""

from collections.abc import Callable, Sequence
from functools import partial

import keras
import numpy as np
import pytest

from tests.training.explain.conftest import SIZE, small_network
from training.explain.randomisation import (
    RandomisationTest,
    randomise_in_cascade,
    rank_correlation,
    structural_similarity,
)


def test_similarity_is_of_order_and_of_structure() -> None:
    one = np.random.default_rng(0).normal(size=(7, 7))
    assert rank_correlation(one, np.exp(one)) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert rank_correlation(one, np.full((7, 7), 0.1)) == 0
    assert structural_similarity(one, 3 * one + 2) == pytest.approx(1)
    assert structural_similarity(one, -one) < 0


def own_map(network: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(network(images, training=False)[1])


def edges(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Draw the edges of an image, whatever the network predicts."""
    changes = np.abs(np.diff(images.astype(float), axis=1, append=0))
    return changes.reshape(len(images), 4, SIZE // 4, 4, SIZE // 4).mean(axis=(2, 4))


def randomised(
    network: keras.Model,
    seeds: Sequence[int],
    squares: np.ndarray,
    explain: Callable[[np.ndarray], np.ndarray],
    image_box: tuple[int, int, int, int] = (0, 0, SIZE, SIZE),
) -> RandomisationTest:
    logits = np.asarray(network(squares, training=False)[0], float).tolist()
    random_networks = [small_network(seed) for seed in seeds]
    return randomise_in_cascade(
        network, random_networks, squares, explain, image_boxes=[image_box] * len(squares), logits=logits
    )


@pytest.fixture(scope="module")
def run_test(network: keras.Model, squares: np.ndarray) -> Callable[[Callable[..., np.ndarray]], RandomisationTest]:
    def run(explain: Callable[..., np.ndarray]) -> RandomisationTest:
        return randomised(network, (2, 3, 4), squares, partial(explain, network))

    return run


def test_a_map_of_the_network_is_distinguished_from_an_edge_detector(
    run_test: Callable[[Callable[..., np.ndarray]], RandomisationTest],
) -> None:
    real, edge_map = run_test(own_map), run_test(edges)
    assert real.stages == ("head", "4 x 4", "8 x 8", "16 x 16", "32 x 32", "64 x 64")
    np.testing.assert_allclose(edge_map.rank_correlations, 1)
    assert "do not use it as an explanation" in edge_map.conclusion
    assert real.remaining_correlation < 0.5
    assert real.maps.shape == (7, 10, 4, 4)


def test_a_randomised_network_gets_its_weights_back(network: keras.Model, squares: np.ndarray) -> None:
    before = own_map(network, squares[:2])

    def interrupted(images: np.ndarray) -> np.ndarray:
        found = own_map(network, images)
        if not np.array_equal(found, before):
            raise KeyboardInterrupt
        return found

    with pytest.raises(KeyboardInterrupt):
        randomised(network, (2,), squares[:2], interrupted)
    np.testing.assert_array_equal(own_map(network, squares[:2]), before)


def test_images_without_a_map_do_not_count_and_a_network_without_any_is_reported(
    network: keras.Model, squares: np.ndarray
) -> None:
    def faint(images: np.ndarray, count: int) -> np.ndarray:
        scales = np.where(np.arange(len(images)) < count, 1e-21, 1)
        return own_map(network, images) * scales[:, None, None]

    dead = randomised(network, (2,), squares[:3], partial(faint, count=3))
    assert dead.conclusion.startswith("The network has no map to check: in each image (3) ")
    assert not dead.maps[0].any()
    some = randomised(network, (2,), squares[:3], partial(faint, count=1))
    assert some.has_map.tolist() == [False, True, True]
    assert some.rank_correlations.shape == (1, 6, 2)
    assert "1 image has no map and did not count" in some.conclusion


def test_maps_are_compared_over_the_image_and_not_its_padding(network: keras.Model, squares: np.ndarray) -> None:
    rng = np.random.default_rng(0)

    def padded(images: np.ndarray) -> np.ndarray:
        """Differ by chance on the image, the left half, and agree in the padding."""
        maps = rng.normal(size=(len(images), 8, 8))
        maps[:, :, 4:] = 100 + np.arange(32).reshape(8, 4)
        return maps

    found = randomised(network, (2, 3), squares, padded, (0, 0, SIZE, SIZE // 2))
    assert np.abs(found.rank_correlations.mean()) < 0.1
    assert randomised(network, (2,), squares, padded).rank_correlations.mean() > 0.7
