"""From a data set and backbone weights to a model package, top to bottom."""

from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from training.crossval import cross_validate, held_out_cam_maxima
from training.dataset import load_images, read_fracatlas
from training.evaluate import evaluate, heat_map_scale
from training.features import frozen_features
from training.fit import fit_head
from training.recipe import Recipe
from training.release import make_card, make_readme
from xray.cam import HeadWeights
from xray.engine_keras import compile_forward, prepare_backend
from xray.errors import UsageError
from xray.network import build_network, network_weights
from xray.package import Golden, ModelPackage, write_package
from xray.pixels import Preprocessing
from xray.weights import round_to_storage

GOLDEN_IMAGES = 8
GOLDEN_TOLERANCE = 2e-3


def train(recipe: Recipe, data: Path, weights: Path, out: Path) -> ModelPackage:
    """Cross-validate a recipe, fit its head to all images, and write the model package.

    Everything is measured on the backbone as it ships, its weights rounded to float16, and on the preprocessing that
    screening uses.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    data : Path
        A FracAtlas folder.
    weights : Path
        Keras weights of the recipe's backbone without top.
    out : Path
        Gets ``features/`` (a cache) and the package, ``<name>-<version>/``.

    Raises
    ------
    UsageError
        If the data or weights cannot be used, or the package exists.
    """
    target = out / f"{recipe.name}-{recipe.version}"
    if target.exists():
        raise UsageError(f"{target} exists: a model package is never changed, choose another --out or version")
    print(f"recipe\n{recipe}", flush=True)
    listed = read_fracatlas(data)
    prepare_backend()
    network = build_network(recipe.backbone, recipe.input_size, recipe.head, backbone_weights=weights)
    network.set_weights([round_to_storage(weight) for weight in network_weights(network)])

    dataset, images, skipped = load_images(listed, Preprocessing(recipe.input_size, recipe.geometry))
    faults = ", ".join(f"{reason} {count}" for reason, count in skipped.most_common()) or "none"
    print(f"{len(images)} images, {dataset.labels.sum()} fractured; unreadable: {faults}", flush=True)
    features = frozen_features(images, network, out / "features")

    result = cross_validate(features.pooled, dataset.labels, dataset.groups, recipe)
    evaluation = evaluate(result.logits, dataset.labels, dataset.groups, dataset.upper_limb)
    maxima = held_out_cam_maxima(features, result)
    for metric in evaluation.metrics:
        print(f"{metric.name}: {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}], {metric.population}")

    half, most = np.percentile(maxima[~dataset.labels], (50, 95))
    print(f"largest CAM value of normal films: median {half:.1f}, 95th percentile {most:.1f}", flush=True)

    epochs = round(float(np.median(result.epochs)))
    head, _ = fit_head(features.pooled, dataset.labels, recipe, epochs)
    _set_head(network, head)
    out.mkdir(parents=True, exist_ok=True)
    card = make_card(recipe, evaluation, heat_map_scale(maxima, dataset.labels), len(images), faults, weights.name)
    package = write_package(
        target,
        card,
        weights=network_weights(network),
        golden=_golden(network, images, result.logits),
        readme=make_readme(card),
    )
    print(f"{target}: digest {package.digest}, head fitted to all images for {epochs} epochs", flush=True)
    return package


def _set_head(network: keras.Model, head: HeadWeights) -> None:
    layer = network.get_layer("head")
    for variable, value in zip((*layer.kernels, *layer.biases), (*head.kernels, *head.biases), strict=True):
        variable.assign(round_to_storage(value.astype(np.float32)))


def _golden(network: keras.Model, images: NDArray[np.uint8], logits: NDArray[np.float64]) -> Golden:
    """Take golden images evenly from the least to the most suspicious, and what the network says of them."""
    chosen = np.argsort(logits)[np.linspace(0, len(logits) - 1, GOLDEN_IMAGES).round().astype(int)]
    found_logits, cams = compile_forward(network, GOLDEN_IMAGES)(images[chosen])
    return Golden(images[chosen], found_logits, cams, GOLDEN_TOLERANCE)
