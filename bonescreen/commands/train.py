"""Train: a recipe, a data set and first weights make a model package."""

import importlib.util
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bonescreen.commands.evaluate import print_level
from bonescreen.context import settings_here
from bonescreen.terminal import print_line, print_notice
from xray.errors import UsageError
from xray.vocabulary import RESEARCH_NOTICE

if TYPE_CHECKING:
    from xray.network.package import ModelPackage


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe: seed, humerus or fracture.")],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Labelled radiographs: MURA v1.1, FracAtlas, or a folder with a manifest.csv."
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="WEIGHTS", help="What the backbone starts from: imagenet (Keras downloads it), a file, a package."
        ),
    ] = "imagenet",
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Gets the model package, and what a run goes on from.")
    ] = Path("trained"),
    body_part: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="Learn from films of this body part instead of the recipe's, or all."),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV image,group: what a split must not part.")
    ] = None,
    split: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV group,role: train, validation, test; else drawn by seed.")
    ] = None,
    finding: Annotated[str | None, typer.Option(help="What a positive label of a manifest means.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Another Keras application, such as ResNet50V2.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="So many epochs in each stage.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="So many images a step.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Another seed.")] = None,
    views: Annotated[
        int | None,
        typer.Option(min=0, help="So many views of a film, computed once; 0: new ones each epoch, for GPUs."),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same weights to the bit each time; slower.")
    ] = False,
    no_graph: Annotated[
        bool, typer.Option("--no-graph", help="Leave the OpenVINO graph out: half the size, made at first use.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe, and train nothing.")] = False,
) -> None:
    """Train a model package by a recipe, measure it on images it has not seen, write it with its card.

    Stop it whenever you like: the same command goes on from the last epoch. KERAS_BACKEND=jax trains on JAX.

    Example: bonescreen train seed --data MURA-v1.1 --weights imagenet --out trained
    """
    require_training()
    from training.progress import load_backend

    load_backend()
    from training.recipes import find_recipe

    chosen = find_recipe(recipe).changed(
        backbone=backbone, epochs=epochs, batch_size=batch_size, seed=seed, views=views
    )
    if show:
        for line in str(chosen).splitlines():
            print_line(line)
        return
    if data is None:
        raise UsageError("--data is missing: say where the labelled radiographs are")
    from training.config import TrainingConfig
    from training.data.read_dataset import read_dataset
    from training.data.split import read_split
    from training.train import train as run

    settings = settings_here()
    parts = chosen.body_parts if body_part is None else [part.upper() for part in body_part]
    dataset = read_dataset(data, body_parts=parts, groups=groups, pseudonym_key=settings.pseudonym_key, finding=finding)
    try:
        package, judgement = run(
            TrainingConfig(
                recipe=chosen,
                dataset=dataset,
                initial=first_weights(weights),
                out=out,
                command=_command(
                    recipe,
                    data=data.absolute().name,
                    weights=weights if weights == "imagenet" else Path(weights).name,
                    body_part=body_part,
                    groups=None if groups is None else groups.name,
                    split=None if split is None else split.name,
                    finding=finding,
                    backbone=backbone,
                    epochs=epochs,
                    batch_size=batch_size,
                    seed=seed,
                    views=views,
                    deterministic=deterministic,
                ),
                split=None if split is None else read_split(split),
                deterministic=deterministic,
                graph=not no_graph,
            )
        )
    except KeyboardInterrupt:
        print_notice("stopped; the same command goes on from the last epoch")
        raise
    print_line("")
    print_level("images", judgement.evaluation.images)
    if not judgement.evaluation.one_image_a_study:
        print_level("studies", judgement.evaluation.studies)
    print_line(f"{package.path}: digest {package.digest}", "bold")
    print_line(RESEARCH_NOTICE)
    print_line(f"Screen with it: BONESCREEN_MODEL={shlex.quote(str(package.path))} bonescreen screen PATH")


def require_training() -> None:
    """Refuse what needs the training extra where it is not installed, before anything is imported.

    Raises
    ------
    UsageError
        A library is missing; says how to install it.
    """
    from xray.network.open_engine import require_engine

    require_engine("keras")
    missing = [name for name in ("sklearn", "tensorboard") if not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(f"training needs {' and '.join(missing)}: pip install 'bonescreen[tensorflow]'")


def first_weights(text: str) -> "Path | Literal['imagenet'] | ModelPackage":
    """Read what --weights says: ``imagenet``, a file, or a package's name or folder.

    Raises
    ------
    UsageError
        If it is none of these.
    """
    from xray.network.package import installed_packages, load_package

    path = Path(text)
    if text == "imagenet":
        return "imagenet"
    if path.is_file():
        return path
    if path.is_dir() or text in installed_packages():
        return load_package(text)
    raise UsageError(f"no weights file at {text}, and no model package of this name; or say --weights imagenet")


def _command(recipe: str, **options: str | int | bool | list[str] | None) -> str:
    """Write the command for the card: as it was given, of paths their last name only."""
    words = ["bonescreen", "train", recipe]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            words += [word for each in (value if isinstance(value, list) else [value]) for word in (flag, str(each))]
    return shlex.join(words)
