"""The recipes there are. They are frozen: a change of any number is a new version, as results are told by name."""

from training.recipe import Augmentation, Recipe, Stage
from xray.errors import UsageError

FILMS = Augmentation(flip=True, rotation=15, scale=0.15, shift=0.05, contrast=0.2, brightness=0.1)

SEED = Recipe(
    name="seed",
    version="1",
    command="bonescreen train seed --data MURA-v1.1 --weights imagenet",
    data="MURA v1.1, XR_HUMERUS (1,272 training images, 288 of valid/ to test with)",
    measured="not on MURA, which may not be redistributed and was not at hand; the work it repeats reports an image "
    "accuracy of 79 %, then 85 %",
    body_parts=("HUMERUS",),
    backbone="DenseNet121",
    input_size=224,
    geometry="squash",
    head=(256, 64),
    dropout=0.0,
    stages=(Stage(release=60, epochs=40, learning_rate=1e-4),),
    cosine=False,
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

RECIPES = {recipe.name: recipe for recipe in (SEED,)}


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
