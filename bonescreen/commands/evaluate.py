"""An evaluation as the terminal shows it."""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bonescreen.commands.arguments import Json
from bonescreen.context import settings_here
from bonescreen.terminal import count, print_line, print_notice, print_table
from xray.errors import UsageError
from xray.settings import ENGINES, EngineName, Settings
from xray.vocabulary import RESEARCH_NOTICE

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from training.data.dataset import Dataset
    from training.data.leakage import Leakage
    from training.evaluate.baseline import Baseline, Comparison, Difference
    from training.evaluate.evaluation import Evaluation, Level
    from training.evaluate.held_out import Aim
    from training.evaluate.mistakes import Mistake
    from training.evaluate.predictions import Predictions
    from training.evaluate.report import EvaluationReport
    from xray.network.engine import Engine
    from xray.network.package import ModelPackage

TITLES = ("AUROC", "average precision", "sensitivity", "specificity", "accuracy", "kappa")


def warn_of_seen(report: "EvaluationReport") -> None:
    """Say on standard error what the numbers are worth, unless the models have surely not seen the images."""
    _warn("", report.seen)
    if report.comparison is None:
        return
    name = report.names[1]
    if report.comparison.seen is None:
        print_notice(f"Whether {name} has seen these images is not known.")
    else:
        _warn(f"{name}: ", report.comparison.seen)


def _warn(name: str, seen: "Leakage") -> None:
    from training.data.leakage import LeakageVerdict

    if seen.verdict is not LeakageVerdict.HELD_OUT:
        print_notice(f"{'' if seen.verdict is LeakageVerdict.UNKNOWN else 'WARNING: '}{name}{seen.text}")


def print_evaluation(report: "EvaluationReport") -> None:
    """Print the tables: images, studies where they are not single images, what is out of scope, the comparison."""
    evaluation = report.evaluation
    print_level("images", evaluation.images)
    if evaluation.studies_repeat_images:
        print_line("Each study has one image, so the numbers per study are these.")
    else:
        print_level("studies", evaluation.studies)
    for population in evaluation.out_of_scope:
        print_line(f"Out of scope, and in no number above: {count(population.n, 'image')} of {population.name}")
    if report.comparison is not None:
        _print_comparison(" minus ".join(report.names), report.comparison)


def print_level(rows: str, level: "Level") -> None:
    """Print one table for each threshold, then what is missing in it and why."""
    from training.evaluate.plots import estimate_text

    for index, threshold in enumerate(level.thresholds):
        print_line(
            f"Per {'image' if rows == 'images' else 'study'} at {threshold.value:.3f} ({threshold.chosen})", "bold"
        )
        table = []
        for population in level.populations:
            at = population.at[index]
            ranking = (population.auroc, population.average_precision)
            cells = map(estimate_text, (*ranking, at.sensitivity, at.specificity, at.accuracy, at.kappa))
            table.append((population.name, f"{population.n:,}", f"{population.positives:,}", *cells))
        print_table((rows, " n", " positive", *(f" {title}" for title in TITLES)), table)
        for population in level.populations:
            if population.lacks and not index:
                print_line(f"{population.name}: {population.lacks}", "dim")
        print_line("")


def _print_comparison(title: str, comparison: "Comparison") -> None:
    print_line(title, "bold")
    titles = ("", "measure", " difference", " 95 % interval", " p")
    rows = [
        (level, d.measure.replace("_", " "), f"{d.difference:+.3f}", _interval(d), f"{d.p:.3f}")
        for level, differences in (("images", comparison.images), ("studies", comparison.studies))
        for d in differences
    ]
    if rows:
        print_table(titles, rows)
    if comparison.lacks:
        print_line(comparison.lacks)


def _interval(difference: "Difference") -> str:
    return "no interval" if difference.low is None else f"{difference.low:+.3f} to {difference.high:+.3f}"


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
    from training.data.leakage import PARTS, select_part
    from training.data.read_dataset import read_dataset
    from training.disk import make_folder
    from training.evaluate.baseline import Baseline, require_fitting, require_readable
    from training.evaluate.held_out import Aim
    from xray.network.package import ModelPackage, load_package

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
    dataset, part_name = select_part(package, listed, part)
    dataset.require_both_classes(f"the data to measure on (part: {part_name})")
    require_fitting(dataset, package.card, rival)
    make_folder(output)
    check = partial(require_readable, card=package.card, rival=rival)
    run = _look(package, dataset, chosen, settings, output, check)
    _keep(run.predictions, output)
    if isinstance(rival, ModelPackage):
        rival = Baseline.of_package(rival, _look(rival, dataset, chosen, settings, output).predictions, dataset)
    report = _write(run, dataset, part_name, wanted, rival, output)
    warn_of_seen(report)
    if as_json:
        print(report.to_json())
        return
    print_evaluation(report)
    print_line(str(output / PAGE_FILE))
    print_notice(RESEARCH_NOTICE)


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
    from training.data.images import load_images
    from training.evaluate.predictions import infer_predictions
    from training.progress import Progress
    from xray.images.preprocessing import Preprocessing
    from xray.network.open_engine import open_engine

    engine = open_engine(package, engine_name, settings.graph_cache)
    print_notice(f"Reading {count(len(dataset), 'image')} ...")
    readable, images, unreadable = load_images(
        dataset, Preprocessing.from_id(package.card.preprocessing), output / CACHE_FOLDER
    )
    if check is not None:
        check(readable)
    print_notice(f"Running {package.card.name} on {count(len(images), 'image')} ({engine.name}) ...")
    with Progress().bar("Inferring", len(images)) as step:
        predictions = infer_predictions(engine, package.card, readable, images, step)
    return _Run(package, engine, predictions, unreadable)


def _rival(against: str | None) -> "Baseline | ModelPackage | None":
    """Find what to test against, before hours are spent on the model itself."""
    from training.evaluate.baseline import Baseline
    from xray.network.package import load_package

    if against is None:
        return None
    return Baseline.of_table(Path(against)) if Path(against).is_file() else load_package(against)


def _keep(predictions: "Predictions", output: Path) -> None:
    """Write what took longest as soon as it is there, not beside an earlier report of another model."""
    from training.evaluate.baseline import JSON_FILE, TABLE_FILE

    for name in (JSON_FILE, PAGE_FILE):
        (output / name).unlink(missing_ok=True)
    predictions.write(output / TABLE_FILE)


def _measure(run: _Run, aim: "Aim | None") -> "Evaluation":
    """Measure at the card's thresholds, and at those chosen here for an aim."""
    from training.evaluate.evaluation import evaluate
    from training.evaluate.predictions import in_scope

    card, rows = run.package.card, run.predictions
    inside = rows.select(in_scope(rows, card.body_parts))
    images, studies = [card.image_threshold], [card.study_threshold]
    if aim is not None:
        by_study = inside.by_study()
        images.append(aim.choose(inside, f"these {count(len(inside), 'image')}"))
        studies.append(aim.choose(by_study, f"these {count(len(by_study), 'study')}"))
    return evaluate(rows, images, studies, scope=card.body_parts)


def _write(
    run: _Run, dataset: "Dataset", part: str, aim: "Aim | None", opponent: "Baseline | None", output: Path
) -> "EvaluationReport":
    """Measure, and write the report."""
    from training.disk import write_atomically
    from training.evaluate.baseline import JSON_FILE
    from training.evaluate.mistakes import draw_mistakes, worst_mistakes
    from training.evaluate.predictions import in_scope
    from training.evaluate.report import render_page

    card, rows = run.package.card, run.predictions
    evaluation = _measure(run, aim)
    inside = rows.select(in_scope(rows, card.body_parts))
    mistakes = worst_mistakes(inside, card.image_threshold.value)
    report = _report(run, dataset, part, aim, evaluation, mistakes, opponent)
    page = render_page(report, inside, draw_mistakes(mistakes, dataset.root, card, run.engine))
    for name, text in ((JSON_FILE, report.to_json() + "\n"), (PAGE_FILE, page)):
        # what the locale could not decode of a file's name
        content = text.encode("utf-8", "backslashreplace")
        write_atomically(output / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return report


def _report(
    run: _Run,
    dataset: "Dataset",
    part: str,
    aim: "Aim | None",
    evaluation: "Evaluation",
    mistakes: "tuple[Mistake, ...]",
    opponent: "Baseline | None",
) -> "EvaluationReport":
    from training.data.leakage import check_leakage
    from training.evaluate.report import Data, EvaluationReport, Model

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
    return EvaluationReport(
        model=model,
        data=data,
        seen=check_leakage(run.package, dataset),
        evaluation=evaluation,
        aim=None if aim is None else str(aim),
        mistakes=mistakes,
        comparison=comparison,
    )
