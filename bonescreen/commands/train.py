"""Train: make a model package from a recipe, a data set and initial weights."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bonescreen.commands.evaluate import print_level, print_pointing
from bonescreen.context import require_packages, settings_here
from bonescreen.terminal import print_line, print_notice, print_wrapped
from training.recipes import RECIPES, find_recipe
from xray.errors import UsageError
from xray.vocabulary import RESEARCH_NOTICE

if TYPE_CHECKING:
    from training.evaluate.held_out import ModelEvaluation
    from xray.network.package import ModelPackage


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=f"Recipe: {', '.join(RECIPES)}.")],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Labelled radiographs: MURA v1.1, FracAtlas, or a folder with a manifest.csv."
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="WEIGHTS",
            help="Initial weights of the backbone: imagenet (downloaded by Keras), a Keras weights file, "
            "EfficientNet-Lite2's from PyTorch (.pth), or a model package.",
        ),
    ] = "imagenet",
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the model package, checkpoints and logs.")
    ] = Path("trained"),
    body_part: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="Body part to train on, or 'all' (default: the recipe's). Repeatable."),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV file (columns image,group): images to keep in one part of the split."),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV file (columns group,role) with train, validation and test. By default a random split is made.",
        ),
    ] = None,
    finding: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Meaning of a positive label, such as fracture.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="A different Keras application, such as ResNet50V2.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Epochs in each stage.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", min=1, help="Training batch size.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, max=2**31 - 1, help="Random seed.")] = None,
    views: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Augmented views of each image, computed once; 0 re-augments in every epoch, for GPUs.",
        ),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Bitwise-reproducible training (slower).")
    ] = False,
    no_graph: Annotated[
        bool,
        typer.Option("--no-graph", help="Leave out the OpenVINO graph and lower precisions: for a quick try."),
    ] = False,
    unlike: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Pictures of other things, such as other body regions: the card says how many are out of scope. "
            "Repeatable.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe and stop.")] = False,
) -> None:
    """Train a model from a recipe, evaluate it on held-out images, and write it as a model package.

    You can stop it at any time: the same command continues from the last epoch. KERAS_BACKEND=jax trains with JAX.

    Example: bonescreen train humerus-baseline --data MURA-v1.1 --weights imagenet --out trained
    """
    chosen = find_recipe(recipe).changed(
        backbone=backbone, epochs=epochs, batch_size=batch_size, seed=seed, views=views
    )
    if show:
        for line in str(chosen).splitlines():
            beginning = "# " if line.startswith("# ") else ""
            print_wrapped(beginning, line.removeprefix(beginning))
        return
    if data is None:
        raise UsageError("--data is missing: give the folder with the labelled radiographs")
    require_training()
    from training.progress import load_backend

    load_backend()
    from training.config import TrainingConfig
    from training.data.read_dataset import read_dataset
    from training.data.split import read_split
    from training.train import train as run

    settings = settings_here()
    parts = chosen.body_parts if body_part is None else [part.upper() for part in body_part]
    dataset = read_dataset(data, body_parts=parts, groups=groups, pseudonym_key=settings.pseudonym_key, finding=finding)
    config = TrainingConfig(
        recipe=chosen,
        dataset=dataset,
        initial_weights=find_initial_weights(weights),
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
            unlike=None if unlike is None else [folder.absolute().name for folder in unlike],
        ),
        split=None if split is None else read_split(split),
        deterministic=deterministic,
        graph=not no_graph,
        unlike=tuple(unlike or ()),
    )
    try:
        package, evaluation = run(config)
    except KeyboardInterrupt:
        print_notice("stopped; the same command continues from the last epoch")
        raise
    print_line("")
    if evaluation is None:
        print_line(f"already trained: {package.path} (digest {package.digest[:12]})", "bold")
    else:
        _print_metrics(evaluation, package.card.finding)
        print_line(f"trained: {package.path} (digest {package.digest[:12]})", "bold")
        for warning in evaluation.warnings:
            print_notice(f"WARNING: {warning}")
    print_line(RESEARCH_NOTICE)
    print_line(f"Screen with it: BONESCREEN_MODEL={shlex.quote(str(package.path))} bonescreen screen PATH")


def require_training() -> None:
    """Refuse to train if a library is not installed, before any is imported.

    Raises
    ------
    UsageError
        If a library is missing; the message says how to install it.
    """
    from xray.network.open_engine import require_engine

    require_engine("keras")
    require_packages("train", "sklearn", "tensorboard")


def find_initial_weights(text: str) -> "Path | Literal['imagenet'] | ModelPackage":
    """Return what --weights names: ``imagenet``, a weights file, or a model package by name or folder.

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
    raise UsageError(f"there is no weights file and no model package {text}: give one of them, or --weights imagenet")


def _print_metrics(evaluation: "ModelEvaluation", finding: str) -> None:
    print_level("images", evaluation.evaluation.images)
    if not evaluation.evaluation.one_image_a_study:
        print_level("studies", evaluation.evaluation.studies)
    if evaluation.pointing:
        print_pointing(evaluation.pointing, finding)


def _command(recipe: str, **options: str | int | bool | list[str] | None) -> str:
    """Return the command for the card, with the last component of each path."""
    words = ["bonescreen", "train", recipe]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            words += [word for each in (value if isinstance(value, list) else [value]) for word in (flag, str(each))]
    return shlex.join(words)
