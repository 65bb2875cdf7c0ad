"""Recipes: every number that decides what a training run makes, in one frozen value that prints itself."""

import dataclasses
import itertools

from xray.errors import UsageError
from xray.network import backbone_names
from xray.pixels import Geometry


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training in which the same layers learn.

    Attributes
    ----------
    release : int
        How many of the backbone's last Keras layers learn, batch normalisation excepted, which stays as it was learnt
        and in inference mode; 0 for the head alone.
    epochs : int
        Passes over the training images, or with ``negatives`` over the positive ones.
    learning_rate : float
        Where it begins; it falls to zero by half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983), or stays.
    head : bool
        Whether the head learns too. A head that has learnt to the end on frozen features and is then frozen keeps
        released layers from learning the films by heart (after Kumar et al. 2022, arXiv:2202.10054).
    negatives : float
        So many negative films for each positive one in an epoch, every epoch the next of them; 0: all there are.
    """

    release: int
    epochs: int
    learning_rate: float
    head: bool = True
    negatives: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what teaches nothing."""
        if not self.release and not self.head:
            raise UsageError("a stage in which neither layers of the backbone nor the head learn teaches nothing")
        if self.negatives < 0:
            raise UsageError(f"there cannot be {self.negatives:g} negative films for each positive one")

    def __str__(self) -> str:
        layers = f"the last {self.release} layers" if self.release else ""
        what = " and ".join(filter(None, (layers, "the head" if self.head else "")))
        films = f", {self.negatives:g} negative films for each positive" if self.negatives else ""
        return f"{what}, {self.epochs} epochs from a learning rate of {self.learning_rate:g}{films}"


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How much a film is changed at random before it is learnt from; nothing by default.

    Attributes
    ----------
    flip : bool
        Mirror left and right, every other time.
    rotation : float
        Up to so many degrees either way.
    scale : float
        Larger or smaller by up to this share.
    shift : float
        Along each axis, up to this share of the side.
    gain, gamma : float
        Gray values in [0, 1] to the power of ``exp(+-gamma)``, times ``exp(+-gain)``: black stays black.
    """

    flip: bool = False
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    gain: float = 0.0
    gamma: float = 0.0

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(self).items() if value) or "none"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model package is made from a data set and backbone weights.

    Attributes
    ----------
    name, version : str
        Of the package that comes out.
    command, data, measured : str
        How it is run, on what, and what came of it: what was really measured, or that nothing was.
    body_parts : tuple of str
        What is taken of the data; all if empty.
    backbone : str
        Name of a ``keras.applications`` model.
    input_size : int
        Side of the square input, pixels.
    geometry : {"squash", "pad"}
        How a film is put into the square.
    head : tuple of int
        Widths of the two hidden layers; the third dense layer is the logit.
    dropout : float
        Share of units dropped before each of the head's layers, while it learns.
    stages : tuple of Stage
        One after the other.
    cosine : bool
        Whether learning rates fall within a stage.
    warmup : float
        With ``cosine``, so much of a stage's first epoch in which the rate rises from zero to where it begins.
    augmentation : Augmentation
        Of the films learnt from.
    views : int
        The frozen layers are computed once for so many augmented views of a film, and their output is kept on disk:
        an epoch takes one of them for each film. 0: a new view each epoch, computed anew, for GPUs. A head that learns
        alone is given films as they are.
    weight_decay : float
        Of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).
    label_smoothing : float
        Towards one half (Szegedy et al. 2016, arXiv:1512.00567).
    class_weights : bool
        Weigh an image by the other class's share among the films of its body part, as MURA's authors did
        (Rajpurkar et al. 2018, arXiv:1712.06957), relative to the mean.
    batch_size : int
        Images a step.
    patience : int
        End a stage after so many epochs without a better loss on the validation part, and keep the best; 0: train to
        the end.
    average : int
        Keep the mean of the weights after each of the last epochs (Izmailov et al. 2018, arXiv:1803.05407); 0: no.
    folds : int
        Cross-validate in so many folds, then learn from everything; 0: hold out a validation and a test part.
    validation, test : float
        Their shares of the images, without folds.
    seed : int
        Of split, initial weights, order, augmentation and dropout.
    """

    name: str
    version: str
    command: str
    data: str
    measured: str
    body_parts: tuple[str, ...]
    backbone: str
    input_size: int
    geometry: Geometry
    head: tuple[int, int]
    dropout: float
    stages: tuple[Stage, ...]
    cosine: bool
    warmup: float
    augmentation: Augmentation
    views: int
    weight_decay: float
    label_smoothing: float
    class_weights: bool
    batch_size: int
    patience: int
    average: int
    folds: int
    validation: float
    test: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.backbone not in backbone_names():
            raise UsageError(f"no backbone named {self.backbone!r}; one of: {', '.join(backbone_names())}")
        if self.folds and self.patience:
            raise UsageError("cross-validation trains to the end: patience needs a validation part of its own")
        if not any(stage.head for stage in self.stages):
            raise UsageError("in some stage the head must learn: it begins at random")
        if any(before.release and not after.release for before, after in itertools.pairwise(self.stages)):
            raise UsageError(
                "a head learns alone on what the backbone begins with, so no stage may release layers before"
            )
        if self.patience and self.average:
            raise UsageError("patience keeps the best epoch, so there is nothing to average")

    def __str__(self) -> str:
        """Return the command, the data, the result, then a line for each number."""
        lines = [f"# {self.command}", f"# data: {self.data}", f"# measured: {self.measured}", ""]
        for field in dataclasses.fields(self)[5:]:
            value = getattr(self, field.name)
            if field.name == "stages":
                lines += [f"stage {number} = {stage}" for number, stage in enumerate(value, start=1)]
            elif isinstance(value, tuple):
                lines.append(f"{field.name} = {', '.join(map(str, value)) or 'all'}")
            else:
                lines.append(f"{field.name} = {value}")
        return "\n".join([f"{self.name}, version {self.version}", *lines])

    def changed(
        self,
        *,
        backbone: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        views: int | None = None,
    ) -> "Recipe":
        """Return the recipe with some numbers changed; ``epochs`` is for every stage.

        Raises
        ------
        UsageError
            If there is no such backbone.
        """
        return dataclasses.replace(
            self,
            backbone=self.backbone if backbone is None else backbone,
            stages=tuple(dataclasses.replace(stage, epochs=epochs or stage.epochs) for stage in self.stages),
            batch_size=self.batch_size if batch_size is None else batch_size,
            seed=self.seed if seed is None else seed,
            views=self.views if views is None else views,
        )
