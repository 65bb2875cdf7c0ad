"""Explanations of a network with a finer map."""

from dataclasses import replace

import keras
import numpy as np

from tests.tiny import CARD, FINER_MAP, HEAD, SIZE, random_weight, some_images
from training.explain.grad_cam import GradCam, has_fixed_scale
from training.explain.layers import drawable_layers
from training.explain.randomisation import network_stages, random_network
from xray.network.builder import build_from_card, build_network


def network() -> keras.Model:
    """Return a small network with a finer map, and a distance."""
    built = build_network("MobileNet", SIZE, HEAD, FINER_MAP, components=4)
    rng = np.random.default_rng(0)
    for variable in built.weights:
        variable.assign(random_weight(variable.name, tuple(variable.shape), rng))
    return built


def test_layers_are_explained_by_the_logit_of_the_whole_network() -> None:
    built, square = network(), some_images(1)[0]
    names = [layer.name for layer in drawable_layers(built)]
    assert {FINER_MAP.layer, "conv_pw_13_relu"} <= set(names)
    explained = GradCam(built, [FINER_MAP.layer, "conv_pw_13_relu"]).explain(square)
    logits, cams, _ = built(square[None], training=False)
    np.testing.assert_allclose(explained.logit, logits[0], rtol=1e-4)
    np.testing.assert_allclose(explained.cam, cams[0], rtol=1e-3, atol=1e-4)
    assert [each.shape for each in explained.grad_cams] == [(4, 4), (2, 2)]
    assert all(np.abs(each).max() > 0 for each in explained.grad_cams)


def test_the_layers_of_the_finer_map_are_randomised_with_the_head() -> None:
    built = network()
    stages = network_stages(built)
    assert next(iter(stages)) == "head"
    assert [layer.name for layer in stages["head"]] == ["pyramid", "head", "distance"]
    staged = sum(len(layer.weights) for layers in stages.values() for layer in layers)
    assert staged == len(built.weights)


def test_a_random_network_has_the_stages_of_the_network_that_the_card_describes() -> None:
    card = replace(CARD, pyramid=FINER_MAP)
    stages, others = (network_stages(each) for each in (build_from_card(card), random_network(card, 1)))
    shapes = [
        {name: [weight.shape for layer in layers for weight in layer.weights] for name, layers in some.items()}
        for some in (stages, others)
    ]
    assert shapes[0] == shapes[1]
    assert sum(map(len, shapes[0].values())) == len(build_from_card(card).weights)


def test_the_scale_of_a_finer_map_is_not_that_of_grad_cam_at_the_last_feature_map() -> None:
    last = drawable_layers(network())[-1]
    assert has_fixed_scale(last, CARD)
    assert not has_fixed_scale(last, replace(CARD, pyramid=FINER_MAP))
