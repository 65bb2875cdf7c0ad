"""Configuration of a training run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.dataset import Dataset
from training.data.split import Split
from training.recipes import Recipe

if TYPE_CHECKING:
    from training.fit.learner import InitialWeights


@dataclass(frozen=True)
class TrainingConfig:
    """What to train, on which data, and where to write it.

    Attributes
    ----------
    recipe : Recipe
        Network and training settings.
    dataset : Dataset
        Labelled images.
    initial_weights : Path, "imagenet", ModelPackage or None
        Initial weights of the backbone.
    out : Path
        Folder for the package, and for the cache and checkpoints with which an interrupted run continues.
    command : str
        The command for the card, without paths.
    split : Split or None
        Training, validation and test part; drawn by the recipe if None.
    deterministic : bool
        Give the same weights to the bit each time on the same machine, at some cost in speed.
    graph : bool
        Include an OpenVINO graph in the package.
    unlike : tuple of Path
        Folders of pictures of other things, such as other body regions: the card says how many are out of scope.
    """

    recipe: Recipe
    dataset: Dataset
    initial_weights: "InitialWeights"
    out: Path
    command: str
    split: Split | None = None
    deterministic: bool = False
    graph: bool = True
    unlike: tuple[Path, ...] = ()

    @property
    def package_path(self) -> Path:
        """Folder of the package, such as ``out/humerus-1``."""
        return self.out / self.recipe.package_name
