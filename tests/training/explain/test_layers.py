"""Layers and their maps, on a small DenseNet with random weights: against finite differences and the NumPy oracle."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.applications.densenet import DenseNet

from tests.cam_oracle import HeadWeights, head_forward
from tests.tiny import random_weight
from training.explain.grad_cam import Probe
from training.explain.layers import LayerKind, find_layers, most_active, telling_layers, visible_layers
from training.explain.map_check import deletion_insertion
from training.explain.randomisation import Cascade, cascade, randomised_stages, rank_correlation, structural_similarity
from xray.errors import UsageError
from xray.network.builder import CamHead, backbone_of, build_network

SIZE = 128


def small_network(seed: int) -> keras.Model:
    """Build a network as build_network does, on a DenseNet of two dense layers a block."""
    rng = np.random.default_rng(seed)
    images = keras.Input((SIZE, SIZE), dtype="uint8", name="images")
    gray = ops.cast(images, "float32")
    scaled = ops.stack([gray, gray, gray], axis=-1) / 255.0
    backbone = DenseNet([2, 2, 2, 2], False, None, input_shape=(SIZE, SIZE, 3))
    network = keras.Model(images, CamHead((8, 4), name="head")(backbone(scaled)))
    for variable in network.weights:
        variable.assign(random_weight(variable.name, tuple(variable.shape), rng))
    return network


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return small_network(0)


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.kron(rng.integers(0, 256, (10, 8, 8), np.uint8), np.ones((1, SIZE // 8, SIZE // 8), np.uint8))


def logit_when_disturbed(network: keras.Model, name: str, disturbance: np.ndarray, image: np.ndarray) -> float:
    """Return the logit with something added to one layer's output; no gradient is involved."""

    def call(layer: keras.layers.Layer, *arguments: Any, **named: Any) -> Any:
        found = layer(*arguments, **named)
        return found + disturbance if layer.name == name else found

    disturbed = keras.models.clone_model(backbone_of(network), call_function=call, clone_function=lambda layer: layer)
    scaled = np.repeat(image[None, ..., None], 3, axis=-1).astype(np.float32) / 255
    return float(network.get_layer("head")(disturbed(scaled, training=False))[0][0])


def test_grad_cam_at_the_feature_map_is_the_networks_own_map_by_its_cells(
    network: keras.Model, films: np.ndarray
) -> None:
    sight = Probe(network, ["relu"]).look(films[0])
    logits, cams = network(films[:1], training=False)
    np.testing.assert_allclose(sight.grad_cams[0] * 16, sight.cam, rtol=1e-5, atol=1e-5 * np.abs(sight.cam).max())
    np.testing.assert_allclose(sight.cam, cams[0], rtol=1e-4, atol=1e-5)
    head = network.get_layer("head")
    weights = HeadWeights(tuple(k.numpy() for k in head.kernels), tuple(b.numpy() for b in head.biases))  # type: ignore[arg-type]
    oracle_logits, oracle_cams, _ = head_forward(sight.activations[0][None], weights)
    np.testing.assert_allclose(sight.grad_cams[0], oracle_cams[0] / 16, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([sight.logit, logits[0]], oracle_logits[0], rtol=1e-4)


@pytest.mark.parametrize("name", ["conv1_conv", "conv2_block1_0_relu", "pool3_relu", "conv4_block1_2_conv"])
def test_grad_cam_weighs_channels_by_the_logits_derivative_through_every_skip_connection(
    network: keras.Model, films: np.ndarray, name: str
) -> None:
    sight = Probe(network, [name]).look(films[0])
    activation = sight.activations[0]
    height, width, channels = activation.shape
    step = 1e-3 * float(activation.std())
    slopes = np.zeros(channels)
    # a channel that is silent on this film leaves no trace in the map
    tried = np.flatnonzero(activation.any(axis=(0, 1)))[:: max(1, channels // 6)]
    for channel in tried:
        disturbance = np.zeros(channels, np.float32)
        disturbance[channel] = step
        up, down = (
            logit_when_disturbed(network, name, sign * disturbance[None, None, None], films[0]) for sign in (1, -1)
        )
        slopes[channel] = (up - down) / (2 * step) / (height * width)
    # the map is linear in the activation, so least squares gives back the weights that made it
    alpha = np.linalg.lstsq(activation.reshape(-1, channels), sight.grad_cams[0].ravel(), rcond=None)[0]
    assert len(tried) > 2
    np.testing.assert_allclose(alpha[tried], slopes[tried], rtol=0.1, atol=0.1 * np.abs(slopes).max())


def test_one_layer_is_drawn_for_each_resolution_and_the_feature_map_last(network: keras.Model) -> None:
    chosen = telling_layers(visible_layers(network))
    assert [layer.name for layer in chosen] == ["conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"]
    assert [layer.height for layer in chosen] == [64, 32, 16, 8, 4]
    assert chosen[-1].kind is LayerKind.FEATURE_MAP


@pytest.mark.parametrize("backbone", ["VGG16", "MobileNetV3Small", "ConvNeXtTiny"])
def test_any_keras_application_has_layers_to_draw_down_to_its_feature_map(backbone: str) -> None:
    built = build_network(backbone, 64, (8, 4))
    chosen = telling_layers(visible_layers(built))
    assert [layer.height for layer in chosen] == sorted({layer.height for layer in chosen}, reverse=True)
    assert chosen[-1].kind is LayerKind.FEATURE_MAP
    assert next(iter(randomised_stages(built))) == "head"


def test_an_unknown_layer_is_refused_with_the_names_near_it(network: keras.Model) -> None:
    with pytest.raises(UsageError, match=r"no layer 'pool3_rel' to look at; near it: .*pool3_relu"):
        find_layers(visible_layers(network), ["pool3_rel"])


def test_the_most_active_channel_is_the_one_that_varies_on_the_film_and_not_in_its_padding() -> None:
    activation = np.zeros((8, 8, 3), np.float32)
    activation[..., 0] = 100
    activation[:, :2, 1] = 50
    activation[3:5, 3:5, 2] = 1
    found = most_active(activation, 2, (0, 16, 64, 32), 64)
    assert found.numbers[0] == 2
    assert found.spreads[1] == 0
    assert found.grids.shape == (2, 8, 8)


def test_likeness_is_of_order_and_of_structure() -> None:
    one = np.random.default_rng(0).normal(size=(7, 7))
    assert rank_correlation(one, np.exp(one)) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert rank_correlation(one, np.full((7, 7), 0.1)) == 0
    assert structural_similarity(one, 3 * one + 2) == pytest.approx(1)
    assert structural_similarity(one, -one) < 0


def own_map(network: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(network(images, training=False)[1])


def edges(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Explain nothing: draw where the film changes, whatever the network says."""
    changes = np.abs(np.diff(images.astype(float), axis=1, append=0))
    return changes.reshape(len(images), 4, SIZE // 4, 4, SIZE // 4).mean(axis=(2, 4))


def forgotten(
    network: keras.Model,
    seeds: Sequence[int],
    films: np.ndarray,
    explain: Callable[[np.ndarray], np.ndarray],
    placement: tuple[int, int, int, int] = (0, 0, SIZE, SIZE),
) -> Cascade:
    logits = np.asarray(network(films, training=False)[0], float).tolist()
    fresh = [small_network(seed) for seed in seeds]
    return cascade(network, fresh, films, explain, placements=[placement] * len(films), logits=logits)


@pytest.fixture(scope="module")
def forget(network: keras.Model, films: np.ndarray) -> Callable[[Callable[..., np.ndarray]], Cascade]:
    def run(explain: Callable[..., np.ndarray]) -> Cascade:
        return forgotten(network, (2, 3, 4), films, partial(explain, network))

    return run


def test_the_check_tells_a_map_of_the_network_from_an_edge_detector(
    forget: Callable[[Callable[..., np.ndarray]], Cascade],
) -> None:
    real, sham = forget(own_map), forget(edges)
    assert real.stages == ("head", "4 x 4", "8 x 8", "16 x 16", "32 x 32", "64 x 64")
    np.testing.assert_allclose(sham.rank_correlations, 1)
    assert "do not take it for an explanation" in sham.verdict
    assert real.left < 0.5
    assert real.maps.shape == (7, 10, 4, 4)


def test_a_network_that_was_randomised_has_its_weights_again(network: keras.Model, films: np.ndarray) -> None:
    before = own_map(network, films[:2])

    def interrupted(images: np.ndarray) -> np.ndarray:
        found = own_map(network, images)
        if not np.array_equal(found, before):
            raise KeyboardInterrupt
        return found

    with pytest.raises(KeyboardInterrupt):
        forgotten(network, (2,), films[:2], interrupted)
    np.testing.assert_array_equal(own_map(network, films[:2]), before)


def test_a_network_without_a_map_is_called_so_and_films_without_one_are_left_out(
    network: keras.Model, films: np.ndarray
) -> None:
    def faint(images: np.ndarray, count: int) -> np.ndarray:
        scales = np.where(np.arange(len(images)) < count, 1e-21, 1)
        return own_map(network, images) * scales[:, None, None]

    dead = forgotten(network, (2,), films[:3], partial(faint, count=3))
    assert dead.verdict.startswith("The network has no map to check: on none of the 3 films")
    assert not dead.maps[0].any()
    some = forgotten(network, (2,), films[:3], partial(faint, count=1))
    assert some.mapped.tolist() == [False, True, True]
    assert some.rank_correlations.shape == (1, 6, 2)
    assert "1 without a map are left out" in some.verdict


def test_maps_are_compared_where_the_film_lies_and_not_in_its_padding(network: keras.Model, films: np.ndarray) -> None:
    rng = np.random.default_rng(0)

    def padded(images: np.ndarray) -> np.ndarray:
        """Differ by chance on the film, the left half, and agree in the padding."""
        maps = rng.normal(size=(len(images), 8, 8))
        maps[:, :, 4:] = 100 + np.arange(32).reshape(8, 4)
        return maps

    found = forgotten(network, (2, 3), films, padded, (0, 0, SIZE, SIZE // 2))
    assert np.abs(found.rank_correlations.mean()) < 0.1
    assert forgotten(network, (2,), films, padded).rank_correlations.mean() > 0.7


def brightness(images: np.ndarray) -> np.ndarray:
    """Score films by the only evidence there is: how bright their lower left corner is."""
    return np.asarray(images[:, 48:, :16].mean(axis=(1, 2)) / 255)


def test_deletion_falls_and_insertion_rises_sooner_in_the_order_of_the_true_evidence() -> None:
    film = np.full((64, 64), 20, np.uint8)
    film[48:, :16] = 250
    truth = np.zeros((4, 4))
    truth[3, 0] = 1
    whole = (0, 0, 64, 64)
    right = deletion_insertion(film, truth, brightness, placement=whole, seed=0)
    assert right.deletion[0] == right.insertion[-1] == pytest.approx(250 / 255)
    assert right.deletion_area < 0.5 * right.random_deletion_area
    assert right.insertion_area > right.random_insertion_area
    wrong = deletion_insertion(film, -truth, brightness, placement=whole, seed=0)
    assert wrong.deletion_area > wrong.random_deletion_area


def test_padding_is_neither_deleted_nor_counted() -> None:
    shown: list[np.ndarray] = []

    def keep(images: np.ndarray) -> np.ndarray:
        shown.append(images)
        return np.zeros(len(images))

    film = np.zeros((64, 64), np.uint8)
    film[:, 16:48] = 200
    curves = deletion_insertion(film, np.zeros((4, 4)), keep, placement=(0, 16, 64, 32), seed=0)
    assert len(curves.shares) == 9
    assert not shown[0][..., :16].any()
    assert not shown[0][..., 48:].any()
