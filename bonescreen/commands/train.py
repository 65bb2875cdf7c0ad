"""Train: a recipe, a data set and backbone weights make a model package."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from xray.errors import UsageError


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, such as fracture-densenet169.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A FracAtlas folder: labels.csv and images/.")],
    weights: Annotated[
        Path, typer.Option(metavar="FILE", help="The backbone's weights without top, a Keras .weights.h5 file.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Gets the model package, and a cache of features.")],
) -> None:
    """Train a model package: cross-validate, calibrate, fit to all images, write it with its card.

    An interrupted run, started again with the same --out, computes no feature twice.

    Example: bonescreen train fracture-densenet169 --data fracatlas --weights densenet169.weights.h5 --out trained
    """
    missing = [name for name in ("tensorflow", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"training needs {' and '.join(missing)}: pip install 'bonescreen[tensorflow]'")
    from training.recipe import find_recipe

    chosen = find_recipe(recipe)
    if not weights.is_file():
        raise UsageError(f"no weights file at {weights}")
    from training.train import train as run

    run(chosen, data, weights, out)
