"""Recipes that train in seconds, and a command to run one in its own process, which a test may kill.

``python -m tests.training.recipes small DATA WEIGHTS OUT`` trains deterministically.
"""

import dataclasses
import sys
from pathlib import Path

from tests.training.conftest import BACKBONE, SIZE
from training.config import TrainingConfig
from training.data.read_dataset import read_dataset
from training.recipes import RECIPES, Augmentation, Recipe, Stage
from training.train import train

SMALL = dataclasses.replace(
    RECIPES["humerus-baseline"],
    name="small",
    body_parts=(),
    backbone=BACKBONE,
    input_size=SIZE,
    head=(16, 8),
    pyramid=None,
    dropout=0.2,
    stages=(
        Stage(trainable_layers=0, epochs=4, learning_rate=3e-3),
        Stage(trainable_layers=12, epochs=3, learning_rate=1e-3),
    ),
    cosine=True,
    augmentation=Augmentation(flip=True, rotation=5),
    views=2,
    location_weight=0.0,
    class_weights=True,
    batch_size=8,
    patience=3,
    validation=0.2,
    test=0.2,
)

# With the same kind of stages as `fracture`.
FROZEN_HEAD = dataclasses.replace(
    SMALL,
    name="frozen-head",
    stages=(Stage(0, epochs=4, learning_rate=3e-3), Stage(12, epochs=3, learning_rate=1e-3, head=False, negatives=0.5)),
    location_weight=0.0,
    class_weights=False,
    patience=0,
    average=2,
)
BY_NAME = {recipe.name: recipe for recipe in (SMALL, FROZEN_HEAD)}


def small_config(
    data: Path, weights: Path, out: Path, recipe: Recipe = SMALL, *, deterministic: bool = False
) -> TrainingConfig:
    """Return the configuration of a small training run."""
    return TrainingConfig(
        recipe, read_dataset(data), weights, out, "bonescreen train small", deterministic=deterministic, graph=False
    )


if __name__ == "__main__":
    train(small_config(*map(Path, sys.argv[2:5]), BY_NAME[sys.argv[1]], deterministic=True))
