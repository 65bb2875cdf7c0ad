"""What a training run is given."""

from dataclasses import dataclass
from pathlib import Path

from training.data.dataset import Dataset
from training.data.split import Split
from training.fit.learner import Initial
from training.recipes import Recipe


@dataclass(frozen=True)
class TrainingConfig:
    """What a training run is asked for.

    Attributes
    ----------
    recipe : Recipe
        What to do.
    dataset : Dataset
        What to learn from.
    initial : Path, "imagenet", ModelPackage or None
        What the backbone starts from.
    out : Path
        Gets the package, and beside it what a run needs to go on.
    command : str
        The command, for the card, without paths.
    split : Split or None
        Which groups are for what; drawn by the recipe if None.
    deterministic : bool
        The same weights to the bit each time, on the same machine, at some cost in speed.
    graph : bool
        Put an OpenVINO graph into the package.
    """

    recipe: Recipe
    dataset: Dataset
    initial: Initial
    out: Path
    command: str
    split: Split | None = None
    deterministic: bool = False
    graph: bool = True
