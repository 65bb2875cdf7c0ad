"""Evaluate: a model against human labels, with a page for people and the same for programs."""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bonescreen.commands.runs import Json
from bonescreen.context import settings_here
from bonescreen.evaluated import print_evaluation, warn_of_seen
from bonescreen.show import count, notice, say
from xray.errors import UsageError
from xray.settings import ENGINES, EngineName, Settings
from xray.vocabulary import RESEARCH_NOTICE

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from training.dataset import Dataset
    from training.evaluate import Evaluation
    from training.mistakes import Mistake
    from training.opponent import Opponent
    from training.predictions import Predictions
    from training.report.report import Report
    from training.thresholds import Aim
    from xray.engine import Engine
    from xray.package import ModelPackage

CACHE_FOLDER, PAGE_FILE = "cache", "report.html"


@dataclass(frozen=True)
class _Run:
    """One model that has looked at the images."""

    package: "ModelPackage"
    engine: "Engine"
    predictions: "Predictions"
    unreadable: "Counter[str]"


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An installed package's name, or a package's folder.")],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Labelled radiographs: FracAtlas, MURA's layout, or a manifest.csv.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Gets report.html, report.json and predictions.csv.")
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Test against another model, or an earlier evaluation's predictions.csv."),
    ] = None,
    part: Annotated[
        str | None, typer.Option(metavar="PART", help="test, validation, train or all of the model's own split.")
    ] = None,
    aim: Annotated[
        str | None, typer.Option(metavar="AIM", help="Choose thresholds here, too: youden, or sensitivity:0.95.")
    ] = None,
    body_part: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Only images of this body part, repeatable.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A CSV file image,group of images that belong together.")
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="ENGINE", help="auto, openvino or keras.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a model against human labels, per image, per study and per body part, with intervals.

    Where the package knows which of the data it was trained on, only its test part is measured.

    Example: bonescreen evaluate fracture-3 --data fracatlas -o measured --aim sensitivity:0.95
    """
    missing = [name for name in ("sklearn", "matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"evaluate needs {' and '.join(missing)}: pip install 'bonescreen[tensorflow]'")
    from training.disk import make_folder
    from training.opponent import Opponent, require_fitting, require_readable
    from training.seen import PARTS, choose_part
    from training.sources.read import read_dataset
    from training.thresholds import Aim
    from xray.package import ModelPackage, load_package

    settings = settings_here()
    _require_one_of("part", part, PARTS)
    _require_one_of("engine", engine, ENGINES)
    chosen = cast("EngineName", engine or settings.engine)
    wanted = None if aim is None else Aim.parse(aim)
    package, rival = load_package(model), _rival(against)
    listed = read_dataset(
        data,
        body_parts=[each.upper() for each in body_part or ()],
        groups=groups,
        pseudonym_key=settings.pseudonym_key,
    )
    dataset, part_name = choose_part(package, listed, part)
    dataset.require_both_classes(f"the data to measure on (part: {part_name})")
    require_fitting(dataset, package.card, rival)
    make_folder(output)
    check = partial(require_readable, card=package.card, rival=rival)
    run = _look(package, dataset, chosen, settings, output, check)
    _keep(run.predictions, output)
    if isinstance(rival, ModelPackage):
        rival = Opponent.of_package(rival, _look(rival, dataset, chosen, settings, output).predictions, dataset)
    report = _write(run, dataset, part_name, wanted, rival, output)
    warn_of_seen(report)
    if as_json:
        print(report.to_json())
        return
    print_evaluation(report)
    say(str(output / PAGE_FILE))
    notice(RESEARCH_NOTICE)


def _require_one_of(option: str, given: str | None, known: tuple[str, ...]) -> None:
    if given is not None and given not in known:
        raise UsageError(f"--{option} {given!r} is none of {', '.join(known)}")


def _look(
    package: "ModelPackage",
    dataset: "Dataset",
    engine_name: EngineName,
    settings: Settings,
    output: Path,
    check: "Callable[[Dataset], None] | None" = None,
) -> _Run:
    """Read the images as the package's network takes them, check those that can be read, and run it over them."""
    from training.images import load_images
    from training.inference import infer_predictions
    from training.progress import Progress
    from xray.engine import open_engine
    from xray.pixels import Preprocessing

    engine = open_engine(package, engine_name, settings.graph_cache)
    notice(f"Reading {count(len(dataset), 'image')} ...")
    readable, images, unreadable = load_images(
        dataset, Preprocessing.from_id(package.card.preprocessing), output / CACHE_FOLDER
    )
    if check is not None:
        check(readable)
    notice(f"Running {package.card.name} on {count(len(images), 'image')} ({engine.name}) ...")
    with Progress().bar("Inferring", len(images)) as step:
        predictions = infer_predictions(engine, package.card, readable, images, step)
    return _Run(package, engine, predictions, unreadable)


def _rival(against: str | None) -> "Opponent | ModelPackage | None":
    """Find what to test against, before hours are spent on the model itself."""
    from training.opponent import Opponent
    from xray.package import load_package

    if against is None:
        return None
    return Opponent.of_table(Path(against)) if Path(against).is_file() else load_package(against)


def _keep(predictions: "Predictions", output: Path) -> None:
    """Write what took longest as soon as it is there, not beside an earlier report of another model."""
    from training.opponent import JSON_FILE, TABLE_FILE

    for name in (JSON_FILE, PAGE_FILE):
        (output / name).unlink(missing_ok=True)
    predictions.write(output / TABLE_FILE)


def _measure(run: _Run, aim: "Aim | None") -> "Evaluation":
    """Measure at the card's thresholds, and at those chosen here for an aim."""
    from training.evaluate import evaluate
    from training.scope import in_scope

    card, rows = run.package.card, run.predictions
    inside = rows.select(in_scope(rows, card.body_parts))
    images, studies = [card.image_threshold], [card.study_threshold]
    if aim is not None:
        by_study = inside.by_study()
        images.append(aim.choose(inside, f"these {count(len(inside), 'image')}"))
        studies.append(aim.choose(by_study, f"these {count(len(by_study), 'study')}"))
    return evaluate(rows, images, studies, scope=card.body_parts)


def _write(
    run: _Run, dataset: "Dataset", part: str, aim: "Aim | None", opponent: "Opponent | None", output: Path
) -> "Report":
    """Measure, and write the report."""
    from training.disk import write_whole
    from training.mistakes import draw_mistakes, worst_mistakes
    from training.opponent import JSON_FILE
    from training.report.page import render_page
    from training.scope import in_scope

    card, rows = run.package.card, run.predictions
    evaluation = _measure(run, aim)
    inside = rows.select(in_scope(rows, card.body_parts))
    mistakes = worst_mistakes(inside, card.image_threshold.value)
    report = _report(run, dataset, part, aim, evaluation, mistakes, opponent)
    page = render_page(report, inside, draw_mistakes(mistakes, dataset.root, card, run.engine))
    for name, text in ((JSON_FILE, report.to_json() + "\n"), (PAGE_FILE, page)):
        # what the locale could not decode of a file's name
        content = text.encode("utf-8", "backslashreplace")
        write_whole(output / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return report


def _report(
    run: _Run,
    dataset: "Dataset",
    part: str,
    aim: "Aim | None",
    evaluation: "Evaluation",
    mistakes: "tuple[Mistake, ...]",
    opponent: "Opponent | None",
) -> "Report":
    from training.report.report import Data, Model, Report
    from training.seen import seen

    card = run.package.card
    data = Data(
        name=dataset.terms.name,
        folder=str(dataset.root),
        part=part,
        listed=len(dataset),
        measured=len(run.predictions),
        unreadable=dict(run.unreadable),
        notes=dataset.notes,
    )
    model = Model(
        card.name, card.version, run.package.digest, card.finding, card.wording, card.body_parts, card.calibration,
        run.engine.name,
    )  # fmt: skip
    comparison = None if opponent is None else opponent.meets(card, run.predictions)
    return Report(
        model=model,
        data=data,
        seen=seen(run.package, dataset),
        evaluation=evaluation,
        aim=None if aim is None else str(aim),
        mistakes=mistakes,
        comparison=comparison,
    )
