"""Put what was learnt and measured into a model package."""

import os
import tempfile
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.card import make_card, make_readme
from training.config import TrainingConfig
from training.data.dataset import Dataset, Role
from training.data.leakage import FILMS_FILE, film_digests, films_table
from training.data.split import SPLIT_FILE, Split
from training.evaluate.held_out import ModelEvaluation
from training.fit.learner import Learner
from training.recipes import Recipe
from xray.errors import StorageOutage
from xray.network.builder import build_network, network_weights
from xray.network.keras_engine import compile_forward
from xray.network.openvino_graph import packaged_graph
from xray.network.package import Golden, ModelPackage, round_to_storage, write_package

MAKING = ".making-"
GOLDEN_IMAGES = 8
GOLDEN_TOLERANCE = 2e-3


def release(
    order: TrainingConfig,
    learner: Learner,
    judgement: ModelEvaluation,
    dataset: Dataset,
    faults: str,
    split: Split | None,
    target: Path,
) -> ModelPackage:
    """Write the model package.

    Parameters
    ----------
    order : Order
        What was asked for.
    learner : Learner
        What has learnt.
    judgement : Judgement
        What was measured.
    dataset : Dataset
        The N examples that could be read.
    faults : str
        What could not, by reason.
    split : Split or None
        Which groups were for what; None after cross-validation.
    target : Path
        The package's folder, which must not exist.

    Raises
    ------
    StorageOutage
        If it cannot be written, as when the disk is full.
    """
    weights = [round_to_storage(weight) for weight in network_weights(learner.network)]
    golden = _golden(order.recipe, weights)
    card = make_card(order, judgement, dataset, faults)
    readme = make_readme(card)
    extra = _tables(order, dataset, split)
    try:
        if order.graph:
            with tempfile.TemporaryDirectory(prefix=MAKING, dir=target.parent) as folder:
                draft = write_package(Path(folder) / "draft", card, weights=weights, golden=golden, readme=readme)
                extra |= packaged_graph(draft, Path(folder))
        return write_package(target, card, weights=weights, golden=golden, readme=readme, extra=extra)
    except OSError as error:
        # HDF5 puts a page of its own into what it raises.
        reason = os.strerror(error.errno) if error.errno else "its disk may be full"
        raise StorageOutage(
            f"{target} cannot be written ({reason}): make room, and the same command goes on from here"
        ) from error


def _golden(recipe: Recipe, weights: list[NDArray[np.float32]]) -> Golden:
    """Ask the network as it will be loaded: in float32, whatever it was trained in."""
    keras.config.set_dtype_policy("float32")
    network = build_network(recipe.backbone, recipe.input_size, recipe.head)
    network.set_weights(weights)
    images = golden_images(recipe.input_size, recipe.seed)
    logits, cams = compile_forward(network, len(images))(images)
    return Golden(images, logits, cams, GOLDEN_TOLERANCE)


def _tables(order: TrainingConfig, dataset: Dataset, split: Split | None) -> dict[str, bytes]:
    """Say what each film and group was for; after cross-validation the network has learnt from all."""
    roles = [Role.TRAIN if split is None else split.roles[group] for group in dataset.groups.tolist()]
    ancestor = order.initial if isinstance(order.initial, ModelPackage) else None
    films = films_table(zip(film_digests(dataset), roles, strict=True), ancestor)
    return {FILMS_FILE: films} if split is None else {FILMS_FILE: films, SPLIT_FILE: split.to_csv().encode()}


def golden_images(size: int, seed: int) -> NDArray[np.uint8]:
    """Draw images that exercise a network and show no patient: smooth fields from coarse to fine.

    Parameters
    ----------
    size : int
        Side, pixels.
    seed : int
        Of the draw.

    Returns
    -------
    ndarray of uint8, (8, size, size)
        In [0, 255].
    """
    rng = np.random.default_rng(seed)
    cells = [min(size, 2 ** (1 + number % 6)) for number in range(GOLDEN_IMAGES)]
    fields = [Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)) for side in cells]
    return np.stack([np.asarray(field.resize((size, size), Image.Resampling.BICUBIC)) for field in fields])
