"""Recipes: the settings of a training run, frozen under a name and a version.

This module does not import Keras, so that commands which only read a recipe start quickly.
"""

import dataclasses
import itertools
from typing import TYPE_CHECKING

from xray.errors import UsageError
from xray.network.card import FeaturePyramid
from xray.vocabulary import count

if TYPE_CHECKING:
    from xray.images.preprocessing import Geometry


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the training, during which the same layers are trainable.

    Attributes
    ----------
    trainable_layers : int
        How many of the backbone's top Keras layers are trainable; 0 trains the head alone. Batch normalisation is
        never trained and always runs in inference mode.
    epochs : int
        Passes over the training images, or with ``negatives`` over the positive ones.
    learning_rate : float
        Initial learning rate. With the recipe's ``cosine`` it decays to zero along half a cosine (Loshchilov and
        Hutter 2017, arXiv:1608.03983); otherwise it is constant.
    head : bool
        Whether the head is trainable. Training the head first on frozen features, and then the backbone below a frozen
        head, keeps the backbone from overfitting (after Kumar et al. 2022, arXiv:2202.10054).
    new_layers_factor : float
        Learning rate of the layers outside the backbone, whose initial weights are random, relative to the backbone's
        (discriminative fine-tuning, Howard and Ruder 2018, arXiv:1801.06146).
    negatives : float
        Negative images per positive image in an epoch; each epoch takes the next ones. 0 takes all of them.
    """

    trainable_layers: int
    epochs: int
    learning_rate: float
    head: bool = True
    new_layers_factor: float = 1.0
    negatives: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a stage that trains nothing."""
        if not self.trainable_layers and not self.head:
            raise UsageError("a stage must train the head, layers of the backbone, or both")
        if self.negatives < 0:
            raise UsageError(f"the number of negative images per positive image cannot be {self.negatives:g}")

    def __str__(self) -> str:
        layers = f"the top {self.trainable_layers} backbone layers" if self.trainable_layers else ""
        trained = " and ".join(filter(None, (layers, "the head" if self.head else "")))
        epochs = count(self.epochs, "epoch")
        negatives = "negative image" if self.negatives == 1 else "negative images"
        sampled = f", {self.negatives:g} {negatives} per positive image" if self.negatives else ""
        factor = "" if self.new_layers_factor == 1 else f" (outside the backbone {self.new_layers_factor:g} times that)"
        return f"train {trained}, {epochs}, initial learning rate {self.learning_rate:g}{factor}{sampled}"


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes to training images; none by default.

    Attributes
    ----------
    flip : bool
        Mirror left and right with probability 0.5.
    rotation : float
        Largest rotation either way, degrees.
    scale : float
        Largest change of size, as a share.
    shift : float
        Largest shift along each axis, as a share of the side.
    gain, gamma : float
        Gray values in [0, 1] are raised to the power ``exp(+-gamma)`` and multiplied by ``exp(+-gain)``, so black stays
        black.
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
    """All settings that decide how a model package is made from a data set and initial weights.

    Attributes
    ----------
    name, version : str
        Name and version of the package that is written.
    command, data, measured : str
        The command, the data it is meant for, and the result that was measured, or that there is none.
    body_parts : tuple of str
        Body parts to train on; all if empty.
    backbone : str
        Name of a ``keras.applications`` model. It is checked when the network is built.
    input_size : int
        Side of the square input, pixels.
    geometry : {"squash", "pad"}
        How an image is fitted into the square.
    head : tuple of int
        Widths of the two hidden dense layers; a third dense layer gives the logit.
    pyramid : FeaturePyramid or None
        The finer map that the head attends to; None for the backbone's last feature map alone.
    dropout : float
        Dropout rate before each of the head's layers, during training.
    stages : tuple of Stage
        Run one after the other.
    cosine : bool
        Whether the learning rate decays within a stage.
    warmup : float
        With ``cosine``, the share of a stage's first epoch during which the learning rate rises from zero.
    augmentation : Augmentation
        Applied to training images.
    views : int
        Number of augmented views of each image for which the frozen layers' output is computed once and cached on
        disk; each epoch takes one view of each image. 0 augments and computes everything anew in each epoch, which
        suits a GPU. A stage that trains the head alone always takes the unaugmented images.
    weight_decay : float
        Weight decay of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).
    clip_norm : float
        Each variable's gradient is scaled down to at most this norm; 0 leaves it as it is.
    label_smoothing : float
        Label smoothing (Szegedy et al. 2016, arXiv:1512.00567).
    location_weight : float
        Weight of the loss of the finer map's cells, see :class:`training.fit.location_loss.LocationLoss`, beside that
        of the images' labels. It has an effect only where the data tell where the finding is.
    class_weights : bool
        Whether to weight each image by the share of the other class among the images of its body part, as the authors
        of MURA did (Rajpurkar et al. 2018, arXiv:1712.06957), relative to the mean.
    batch_size : int
        Training batch size.
    patience : int
        Early stopping: end a stage after this many epochs without a lower validation loss, and keep the best epoch's
        weights. 0 trains all epochs.
    average : int
        Keep the mean of the weights after each of the last epochs, this many (Izmailov et al. 2018, arXiv:1803.05407).
        0 keeps the last weights.
    folds : int
        Number of cross-validation folds; afterwards the network is trained on all images. 0 holds out a validation and
        a test part instead.
    validation, test : float
        Shares of the images in the validation and the test part, without folds.
    seed : int
        Random seed of split, initial weights, order of images, augmentation and dropout.
    """

    name: str
    version: str
    command: str
    data: str
    measured: str
    body_parts: tuple[str, ...]
    backbone: str
    input_size: int
    geometry: "Geometry"
    head: tuple[int, int]
    pyramid: FeaturePyramid | None
    dropout: float
    stages: tuple[Stage, ...]
    cosine: bool
    warmup: float
    augmentation: Augmentation
    views: int
    weight_decay: float
    clip_norm: float
    label_smoothing: float
    location_weight: float
    class_weights: bool
    batch_size: int
    patience: int
    average: int
    folds: int
    validation: float
    test: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.folds and self.patience:
            raise UsageError("early stopping (patience) needs a validation part, which cross-validation does not have")
        if not any(stage.head for stage in self.stages):
            raise UsageError("no stage trains the head, whose initial weights are random")
        if any(
            before.trainable_layers and not after.trainable_layers for before, after in itertools.pairwise(self.stages)
        ):
            raise UsageError("a stage that trains the head alone cannot follow one that trains backbone layers")
        if self.pyramid is None and self.location_weight:
            raise UsageError("a loss of locations (location_weight) needs a finer map (pyramid)")
        if self.pyramid is not None and not all(stage.head and stage.trainable_layers for stage in self.stages):
            raise UsageError("each stage with a finer map (pyramid) must train the head and layers of the backbone")
        if self.patience and self.average:
            raise UsageError("weights cannot be averaged (average) when the best epoch is kept (patience)")

    @property
    def package_name(self) -> str:
        """Folder name of the package that is written, such as ``"humerus-1"``."""
        return f"{self.name}-{self.version}"

    def __str__(self) -> str:
        """Return the command, the data, the result, then one line per setting."""
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
        """Return the recipe with some settings changed; ``epochs`` applies to every stage.

        Raises
        ------
        UsageError
            If the finer map is computed from a layer of the backbone that is to be changed.
        """
        if self.pyramid is not None and backbone not in (None, self.backbone):
            raise UsageError(
                f"the recipe {self.name} has a finer map from the layer {self.pyramid.layer} of {self.backbone}: leave "
                "out --backbone, or choose a recipe without a finer map "
                f"({', '.join(name for name, each in RECIPES.items() if each.pyramid is None)})"
            )
        return dataclasses.replace(
            self,
            backbone=self.backbone if backbone is None else backbone,
            stages=tuple(dataclasses.replace(stage, epochs=epochs or stage.epochs) for stage in self.stages),
            batch_size=self.batch_size if batch_size is None else batch_size,
            seed=self.seed if seed is None else seed,
            views=self.views if views is None else views,
        )


AUGMENTATION = Augmentation(flip=True, rotation=15, scale=0.12, shift=0.04, gain=0.2, gamma=0.25)

# The settings of https://github.com/vraul92/Humerus-Bone-Fracture-Detection: DenseNet-121 (Huang et al. 2017,
# arXiv:1608.06993) with three dense layers on MURA's XR_HUMERUS (Rajpurkar et al. 2018, arXiv:1712.06957), 40 epochs,
# batch size 16, top 60 layers trained. What its README does not state, such as the learning rate, is our choice.
HUMERUS_BASELINE = Recipe(
    name="humerus-baseline",
    version="1",
    command="bonescreen train humerus-baseline --data MURA-v1.1 --weights imagenet",
    data="MURA v1.1, XR_HUMERUS (1,272 training images; the 288 images of valid/ are the test part)",
    measured="not on MURA, which may not be redistributed and was not available. The work that it repeats "
    "(https://github.com/vraul92/Humerus-Bone-Fracture-Detection) reports an image accuracy of 79 %, then 85 %. On "
    "FracAtlas's upper limb in MURA's layout (benchmarks/mura_shaped.py; 857 training images), with DenseNet-169 "
    "(--backbone DenseNet169), as ImageNet weights of DenseNet-121 were not at hand: AUROC 0.700 [0.604, 0.776], and "
    "accuracy 0.604 [0.535, 0.668] at the threshold chosen on 103 validation images, on the 245 images of valid/ (64 "
    "positive, 16 groups); 0.739 of them are negative. 8 minutes on 2 shared cores of an AMD EPYC, 2026-11-30",
    body_parts=("HUMERUS",),
    backbone="DenseNet121",
    input_size=224,
    geometry="squash",
    head=(256, 64),
    pyramid=None,
    dropout=0.0,
    stages=(Stage(trainable_layers=60, epochs=40, learning_rate=1e-4),),
    cosine=False,
    warmup=0.0,
    augmentation=Augmentation(),
    views=1,
    weight_decay=0.0,
    clip_norm=0.0,
    label_smoothing=0.0,
    location_weight=0.0,
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
    data="MURA v1.1, XR_HUMERUS (1,272 training images; the 288 images of valid/ are the test part)",
    measured="not on MURA, which may not be redistributed and was not available",
    body_parts=("HUMERUS",),
    backbone="DenseNet121",
    input_size=320,
    geometry="pad",
    head=(256, 64),
    pyramid=None,
    dropout=0.3,
    # 114 layers are all of DenseNet-121's last block.
    stages=(
        Stage(trainable_layers=0, epochs=12, learning_rate=3e-4),
        Stage(trainable_layers=60, epochs=10, learning_rate=1e-4),
        Stage(trainable_layers=114, epochs=20, learning_rate=5e-5),
    ),
    cosine=True,
    warmup=0.5,
    augmentation=AUGMENTATION,
    views=8,
    weight_decay=0.01,
    clip_norm=0.0,
    label_smoothing=0.05,
    location_weight=0.0,
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
    version="5",
    command="bonescreen train fracture --data fracatlas --weights efficientnet-lite2-9656183e.pth",
    data="FracAtlas with its annotations, all parts (3,002 readable images, 592 fractured, 56 groups)",
    measured="out of fold, all images AUROC 0.929 [0.904, 0.946], upper limb 0.915 [0.891, 0.935], maps that point at "
    "the fracture 84 % [79, 87]; about 100 minutes on 2 cores of an AMD EPYC beside other work, 2026-11-30",
    body_parts=(),
    backbone="EfficientNetLite2",
    input_size=448,
    geometry="pad",
    head=(256, 64),
    # 28 x 28 cells of 16 pixels.
    pyramid=FeaturePyramid("block14_add", 128),
    dropout=0.3,
    # 134 layers are all after the second block at stride 8.
    stages=(Stage(trainable_layers=134, epochs=10, learning_rate=3e-4, new_layers_factor=3, negatives=1.5),),
    cosine=True,
    warmup=0.5,
    augmentation=Augmentation(flip=True, rotation=15, scale=0.17, shift=0.05, gain=0.2, gamma=0.25),
    views=6,
    weight_decay=0.02,
    clip_norm=1.0,
    label_smoothing=0.05,
    location_weight=1.0,
    class_weights=False,
    batch_size=8,
    patience=0,
    average=2,
    folds=5,
    validation=0.1,
    test=0.15,
    seed=0,
)

RECIPES = {recipe.name: recipe for recipe in (HUMERUS_BASELINE, HUMERUS, FRACTURE)}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises
    ------
    UsageError
        If there is no such recipe; the message lists the recipes.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe named {name!r}; one of: {', '.join(RECIPES)}")
    return RECIPES[name]
