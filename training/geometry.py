"""``python -m training.geometry DATA WEIGHTS OUT``: measure which input geometry and size a recipe should use."""

import dataclasses
import itertools
import sys
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.crossval import cross_validate
from training.dataset import load_images, read_fracatlas
from training.features import frozen_features
from training.recipe import RECIPES
from xray.engine_keras import prepare_backend
from xray.metrics import auroc, group_interval
from xray.network import build_network, network_weights
from xray.pixels import Preprocessing
from xray.weights import round_to_storage

VARIANTS = [Preprocessing(size, geometry) for size in (224, 320) for geometry in ("pad", "squash")]


def measure(data: Path, weights: Path, out: Path) -> None:
    """Print out-of-fold AUROC of each variant, and of each pair the difference with its 95 % interval.

    Parameters
    ----------
    data : Path
        A FracAtlas folder.
    weights : Path
        Keras weights of the backbone without top.
    out : Path
        Gets ``features/``, the cache that training uses too.
    """
    listed = read_fracatlas(data)
    prepare_backend()
    logits = {}
    for variant in VARIANTS:
        recipe = dataclasses.replace(
            RECIPES["fracture-densenet169"], input_size=variant.size, geometry=variant.geometry
        )
        network = build_network(recipe.backbone, variant.size, recipe.head, backbone_weights=weights)
        network.set_weights([round_to_storage(weight) for weight in network_weights(network)])
        dataset, images, _ = load_images(listed, variant)
        features = frozen_features(images, network, out / "features")
        labels, groups, everyone = dataset.labels, dataset.groups, np.arange(len(dataset.rows))
        result = cross_validate(features.pooled, labels, groups, recipe)
        logits[variant.id] = result.logits
        area = partial(_area, labels, result.logits)
        low, high = group_interval(area, groups)
        print(f"{variant.id}: AUROC {area(everyone):.4f} [{low:.4f}, {high:.4f}]", flush=True)
    for one, other in itertools.combinations(logits, 2):
        gain = partial(_gain, labels, logits[one], logits[other])
        low, high = group_interval(gain, groups)
        print(f"{other} minus {one}: {gain(everyone):+.4f} [{low:+.4f}, {high:+.4f}]", flush=True)


def _area(labels: NDArray[np.bool_], logits: NDArray[np.float64], drawn: NDArray[np.intp]) -> float:
    return auroc(labels[drawn], logits[drawn])


def _gain(
    labels: NDArray[np.bool_], one: NDArray[np.float64], other: NDArray[np.float64], drawn: NDArray[np.intp]
) -> float:
    return _area(labels, other, drawn) - _area(labels, one, drawn)


if __name__ == "__main__":
    measure(*(Path(argument) for argument in sys.argv[1:4]))
