"""Write a trained network and its evaluation as a model package."""

import os
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.card import draft_card, make_card, make_readme
from training.config import TrainingConfig
from training.data.dataset import Dataset, Role
from training.data.leakage import TRAINING_IMAGES_FILE, image_digests, training_images_table
from training.data.split import SPLIT_FILE, Split
from training.evaluate.held_out import ModelEvaluation
from training.fit.learner import COMPONENTS, Learner
from training.fit.precisions import PrecisionComparison
from training.recipes import Recipe
from xray.errors import StorageOutage
from xray.images.preprocessing import Preprocessing
from xray.network.builder import build_network, network_weights
from xray.network.card import LowerPrecision
from xray.network.keras_engine import compile_forward
from xray.network.openvino_graph import derive_graph
from xray.network.package import Golden, ModelPackage, round_to_storage, write_package
from xray.vocabulary import Precision

DRAFT_PREFIX = ".draft-"
GOLDEN_IMAGES = 8
GOLDEN_TOLERANCE = 2e-3


def write_model_package(
    config: TrainingConfig,
    learner: Learner,
    evaluation: ModelEvaluation,
    dataset: Dataset,
    unreadable: str,
    split: Split | None,
    precisions: PrecisionComparison | None,
) -> ModelPackage:
    """Write the model package to ``config.package_path``, which must not exist.

    Parameters
    ----------
    config : TrainingConfig
        Configuration of the run.
    learner : Learner
        The trained network.
    evaluation : ModelEvaluation
        Thresholds, calibration and metrics.
    dataset : Dataset
        The N readable examples.
    unreadable : str
        The number of unreadable images by reason, as text.
    split : Split or None
        The split that it was trained with; None after cross-validation.
    precisions : PrecisionComparison or None
        The graph, and what was measured in lower precisions; None for a package of float32 alone, without a graph.

    Raises
    ------
    StorageOutage
        If it cannot be written, for example because the disk is full.
    """
    path = config.package_path
    weights = stored_weights(learner)
    golden = _golden(config.recipe, weights)
    extra = _tables(config, dataset, split)
    measured: list[LowerPrecision] = []
    lower_golden: dict[Precision, Golden] = {}
    try:
        if precisions is not None:
            measured = precisions.compare(evaluation, Preprocessing(config.recipe.input_size, config.recipe.geometry))
            lower_golden = precisions.golden(golden.images)
            extra |= precisions.files()
        card = make_card(config, evaluation, dataset, unreadable, measured)
        return write_package(
            path,
            card,
            weights=weights,
            golden=golden,
            readme=make_readme(card),
            lower_golden=lower_golden,
            extra=extra,
        )
    except OSError as error:
        # HDF5's own messages are a page long.
        reason = os.strerror(error.errno) if error.errno else "the disk may be full"
        raise StorageOutage(
            f"{path} cannot be written ({reason}): free some space, and run the same command to continue"
        ) from error


def export_graph(recipe: Recipe, learner: Learner, folder: Path) -> Path:
    """Write the OpenVINO graph of a recipe's network, which does not depend on its weights, into a folder."""
    weights = stored_weights(learner)
    golden = _golden(recipe, weights)
    draft = write_package(folder / "draft", draft_card(recipe), weights=weights, golden=golden, readme="draft")
    graph, _ = derive_graph(draft, folder)
    return graph


def stored_weights(learner: Learner) -> list[NDArray[np.float32]]:
    """Return the weights of a learner's network, in its order, rounded as a package stores them."""
    return [round_to_storage(weight) for weight in network_weights(learner.inference_model)]


def golden_images(size: int, seed: int) -> NDArray[np.uint8]:
    """Draw test images without patient data: smooth random patterns from coarse to fine.

    Parameters
    ----------
    size : int
        Side, pixels.
    seed : int
        Random seed.

    Returns
    -------
    ndarray of uint8, (GOLDEN_IMAGES, size, size)
        In [0, 255].
    """
    rng = np.random.default_rng(seed)
    cells = [min(size, 2 ** (1 + number % 6)) for number in range(GOLDEN_IMAGES)]
    patterns = [Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)) for side in cells]
    return np.stack([np.asarray(pattern.resize((size, size), Image.Resampling.BICUBIC)) for pattern in patterns])


def _golden(recipe: Recipe, weights: list[NDArray[np.float32]]) -> Golden:
    """Compute golden outputs in float32, as in screening, whatever the precision of the training."""
    keras.config.set_dtype_policy("float32")
    network = build_network(recipe.backbone, recipe.input_size, recipe.head, recipe.pyramid, components=COMPONENTS)
    network.set_weights(weights)
    images = golden_images(recipe.input_size, recipe.seed)
    logits, cams, distances = compile_forward(network, len(images))(images)
    return Golden(images, logits, cams, GOLDEN_TOLERANCE, distances)


def _tables(config: TrainingConfig, dataset: Dataset, split: Split | None) -> dict[str, bytes]:
    """Return the list of training images, and the split; after cross-validation every image is a training image."""
    roles = [Role.TRAIN if split is None else split.roles[group] for group in dataset.groups.tolist()]
    initial = config.initial_weights if isinstance(config.initial_weights, ModelPackage) else None
    tables = {TRAINING_IMAGES_FILE: training_images_table(zip(image_digests(dataset), roles, strict=True), initial)}
    return tables if split is None else {**tables, SPLIT_FILE: split.to_csv().encode()}
