"""Layers that can be drawn, and their most active channels."""

import re

import keras
import numpy as np
import pytest

from bonescreen.commands.layers import layers
from training.explain.layers import LayerKind, default_layers, drawable_layers, find_layers, most_active_channels
from training.explain.randomisation import (
    network_stages,
)
from xray.errors import UsageError
from xray.network.builder import build_network
from xray.network.package import load_package


def test_one_layer_is_drawn_for_each_resolution_and_the_feature_map_last(network: keras.Model) -> None:
    chosen = default_layers(drawable_layers(network))
    assert [layer.name for layer in chosen] == ["conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"]
    assert [layer.height for layer in chosen] == [64, 32, 16, 8, 4]
    assert chosen[-1].kind is LayerKind.FEATURE_MAP


@pytest.mark.parametrize("backbone", ["VGG16", "MobileNetV3Small", "ConvNeXtTiny"])
def test_any_keras_application_has_layers_to_draw_down_to_its_feature_map(backbone: str) -> None:
    built = build_network(backbone, 64, (8, 4))
    chosen = default_layers(drawable_layers(built))
    assert [layer.height for layer in chosen] == sorted({layer.height for layer in chosen}, reverse=True)
    assert chosen[-1].kind is LayerKind.FEATURE_MAP
    assert next(iter(network_stages(built))) == "head"


def test_the_layers_in_the_help_are_drawn_by_default_as_they_are_what_the_shipped_map_is_computed_from() -> None:
    card = load_package("fracture-5").card
    assert card.pyramid is not None
    drawable = drawable_layers(build_network(card.backbone, 64, card.head, card.pyramid))
    named = re.findall(r"--layer (\S+)", layers.__doc__ or "")
    assert [layer.name for layer in find_layers(drawable, named)] == [card.pyramid.layer, "top_bn_relu6"]
    maps = [layer for layer in default_layers(drawable) if layer.kind is LayerKind.FEATURE_MAP]
    assert [layer.name for layer in maps] == named


def test_an_unknown_layer_is_refused_with_similar_names(network: keras.Model) -> None:
    with pytest.raises(UsageError, match=r"no layer 'pool3_rel' to draw; similar names: .*pool3_relu"):
        find_layers(drawable_layers(network), ["pool3_rel"])


def test_the_most_active_channel_is_the_one_that_varies_on_the_image_and_not_in_its_padding() -> None:
    activation = np.zeros((8, 8, 3), np.float32)
    activation[..., 0] = 100
    activation[:, :2, 1] = 50
    activation[3:5, 3:5, 2] = 1
    found = most_active_channels(activation, 2, (0, 16, 64, 32), 64)
    assert found.numbers[0] == 2
    assert found.spreads[1] == 0
    assert found.grids.shape == (2, 8, 8)
