"""The recipes there are. They are frozen: a change of any number is a new version, as results are told by name."""

from training.recipe import Augmentation, Recipe, Stage
from xray.errors import UsageError

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
