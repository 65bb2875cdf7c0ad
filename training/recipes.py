"""Recipes: every number that decides what a training run makes, in one frozen value that prints itself."""

import dataclasses
import itertools

from xray.errors import UsageError
from xray.images.preprocessing import Geometry
from xray.network.builder import backbone_names


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


FILMS = Augmentation(flip=True, rotation=15, scale=0.12, shift=0.04, gain=0.2, gamma=0.25)

SEED = Recipe(
    name="seed",
    version="1",
    command="bonescreen train seed --data MURA-v1.1 --weights imagenet",
    data="MURA v1.1, XR_HUMERUS (1,272 training images, 288 of valid/ to test with)",
    measured="not on MURA, which may not be redistributed and was not at hand; the work it repeats reports an image "
    "accuracy of 79 %, then 85 %. On a stand-in, FracAtlas's 1,205 films of the upper limb with DenseNet-169 (--data "
    "fracatlas --body-part HAND --body-part SHOULDER --backbone DenseNet169): AUROC 0.787, and an accuracy of 0.677 at "
    "the threshold that 116 validation films chose, on 164 test films of 2 groups, too few for an interval; 3 minutes "
    "on 2 cores, 2026-11-26",
    body_parts=("HUMERUS",),
    backbone="DenseNet121",
    input_size=224,
    geometry="squash",
    head=(256, 64),
    dropout=0.0,
    stages=(Stage(release=60, epochs=40, learning_rate=1e-4),),
    cosine=False,
    warmup=0.0,
    augmentation=Augmentation(),
    views=1,
    weight_decay=0.0,
    label_smoothing=0.0,
    class_weights=False,
    batch_size=16,
    patience=0,
    average=0,
    folds=0,
    validation=0.1,
    test=0.15,
    seed=0,
)

HUMERUS = Recipe(
    name="humerus",
    version="1",
    command="bonescreen train humerus --data MURA-v1.1 --weights imagenet",
    data="MURA v1.1, XR_HUMERUS (1,272 training images, 288 of valid/ to test with)",
    measured="not on MURA, which may not be redistributed and was not at hand",
    body_parts=("HUMERUS",),
    backbone="DenseNet121",
    input_size=320,
    geometry="pad",
    head=(256, 64),
    dropout=0.3,
    # 114 layers are all of DenseNet-121's last block.
    stages=(
        Stage(release=0, epochs=12, learning_rate=3e-4),
        Stage(release=60, epochs=10, learning_rate=1e-4),
        Stage(release=114, epochs=20, learning_rate=5e-5),
    ),
    cosine=True,
    warmup=0.5,
    augmentation=FILMS,
    views=8,
    weight_decay=0.01,
    label_smoothing=0.05,
    class_weights=True,
    batch_size=16,
    patience=6,
    average=0,
    folds=0,
    validation=0.1,
    test=0.15,
    seed=0,
)

FRACTURE = Recipe(
    name="fracture",
    version="3",
    command="bonescreen train fracture --data fracatlas --weights densenet169_imagenet_notop.weights.h5 --no-graph",
    data="FracAtlas, all parts (3,002 readable images, 592 fractured, 56 groups)",
    measured="out of fold, AUROC 0.8888 over all films and 0.8416 over the upper limb; better than logistic "
    "regression on frozen features at 224 px in the same folds by 0.019 [0.006, 0.032] and 0.030 [0.004, 0.051] "
    "(benchmarks/floor.py; settings were chosen on some of these folds, see docs/model.md). It is what ships; 34 "
    "minutes on 2 cores, 2026-11-26",
    body_parts=(),
    backbone="DenseNet169",
    input_size=224,
    geometry="pad",
    head=(256, 64),
    dropout=0.5,
    # 454 layers are all of DenseNet-169's last two blocks.
    stages=(
        Stage(release=0, epochs=40, learning_rate=6e-4),
        Stage(release=454, epochs=6, learning_rate=1e-4, head=False, negatives=1.5),
    ),
    cosine=True,
    warmup=0.5,
    augmentation=FILMS,
    views=6,
    weight_decay=0.01,
    label_smoothing=0.05,
    class_weights=False,
    batch_size=32,
    patience=0,
    average=3,
    folds=5,
    validation=0.1,
    test=0.15,
    seed=0,
)

RECIPES = {recipe.name: recipe for recipe in (SEED, HUMERUS, FRACTURE)}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises
    ------
    UsageError
        If there is none; says which there are.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe named {name!r}; one of: {', '.join(RECIPES)}")
    return RECIPES[name]
