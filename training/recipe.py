"""Recipes: every number that decides what a training run makes, in one place and printed when it starts."""

import dataclasses

from xray.errors import UsageError
from xray.pixels import Geometry


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model package is made from a data set and backbone weights.

    Attributes
    ----------
    name, version : str
        Of the package that comes out.
    backbone : str
        Name of a ``keras.applications`` model; frozen.
    input_size : int
        Side of the square input, pixels.
    geometry : {"squash", "pad"}
        How a film is put into the square.
    head : tuple of int
        Widths of the two hidden layers.
    dropout : float
        Share of units dropped before each of the head's layers.
    learning_rate, weight_decay : float
        Of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).
    batch_size : int
        Images a training step.
    max_epochs, patience : int
        Early stopping: at most so many epochs, stop after so many without a better loss.
    folds : int
        Of the grouped cross-validation.
    seed : int
        Of splits, initial weights, order and dropout.
    """

    name: str
    version: str
    backbone: str
    input_size: int
    geometry: Geometry
    head: tuple[int, int]
    dropout: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int
    folds: int
    seed: int

    def __str__(self) -> str:
        """Return one line for each field."""
        return "\n".join(f"  {key} = {value}" for key, value in dataclasses.asdict(self).items())


RECIPES = {
    "fracture-densenet169": Recipe(
        name="fracture-densenet169",
        version="1",
        backbone="DenseNet169",
        input_size=224,
        geometry="pad",
        head=(256, 64),
        dropout=0.4,
        learning_rate=3e-4,
        weight_decay=1e-2,
        batch_size=64,
        max_epochs=60,
        patience=8,
        folds=5,
        seed=0,
    ),
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe named {name!r}; one of: {', '.join(RECIPES)}")
    return RECIPES[name]
