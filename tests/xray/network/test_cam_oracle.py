"""The NumPy oracle itself, against derivatives taken by difference."""

import numpy as np

from tests.xray.network.cam_oracle import HeadWeights, head_forward


def random_case(seed: int) -> tuple[np.ndarray, HeadWeights]:
    rng = np.random.default_rng(seed)
    widths = (6, 5, 4, 1)
    kernels = tuple(rng.normal(size=widths[i : i + 2]) for i in range(3))
    biases = tuple(rng.normal(size=width) for width in widths[1:])
    return np.maximum(rng.normal(size=(8, 3, 2, 6)), 0), HeadWeights(kernels, biases)  # type: ignore[arg-type]


def test_the_cam_is_the_feature_map_weighed_by_the_logits_derivative() -> None:
    feature_map, weights = random_case(0)
    _, cams, _ = head_forward(feature_map, weights)
    step = 1e-6
    slopes = np.empty((len(feature_map), 6))
    for channel in range(6):
        up, down = feature_map.copy(), feature_map.copy()
        up[..., channel] += step
        down[..., channel] -= step
        slopes[:, channel] = (head_forward(up, weights)[0] - head_forward(down, weights)[0]) / (2 * step)
    np.testing.assert_allclose(cams, np.einsum("nhwc,nc->nhw", feature_map, slopes), atol=1e-6)


def test_the_mean_of_the_cam_and_the_effective_bias_are_the_logit() -> None:
    for seed in range(20):
        feature_map, weights = random_case(seed)
        logits, cams, effective_bias = head_forward(feature_map, weights)
        np.testing.assert_allclose(cams.mean(axis=(1, 2)) + effective_bias, logits, atol=1e-12)


def test_a_head_with_every_unit_off_gives_an_empty_map_and_its_last_bias() -> None:
    feature_map, weights = random_case(1)
    off = HeadWeights(weights.kernels, (np.full(5, -1e6), np.full(4, -1e6), weights.biases[2]))
    logits, cams, effective_bias = head_forward(feature_map, off)
    assert not cams.any()
    np.testing.assert_allclose(logits, weights.biases[2][0])
    np.testing.assert_allclose(effective_bias, weights.biases[2][0])
