"""Evaluate: a model against human labels, and against a baseline."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bonescreen.commands.arguments import Json
from bonescreen.context import require_packages, settings_here
from bonescreen.terminal import print_line, print_notice, print_table, print_wrapped
from xray.errors import UsageError
from xray.settings import ENGINES, EngineName, Settings
from xray.vocabulary import RESEARCH_NOTICE, count

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from training.data.dataset import Dataset
    from training.data.leakage import Leakage
    from training.evaluate.baseline import Baseline, Comparison
    from training.evaluate.evaluation import Evaluation, Level
    from training.evaluate.pointing import Pointing
    from training.evaluate.population import Population
    from training.evaluate.predictions import Predictions
    from training.evaluate.report import EvaluationReport
    from training.evaluate.thresholds import ThresholdAim
    from xray.network.engine import Engine
    from xray.network.package import ModelPackage

CACHE_FOLDER = "cache"


@dataclass(frozen=True)
class _ModelRun:
    """A model that has predicted the images."""

    package: "ModelPackage"
    engine: "Engine"
    readable: "Dataset"
    cams: "NDArray[np.float16]"
    predictions: "Predictions"
    unreadable: "Counter[str]"


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An installed package's name, or a package's folder.")],
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Labelled radiographs: FracAtlas, MURA, or a folder with a manifest.csv."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for report.html, report.json, predictions.csv and maps.html."
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A baseline: another model, or the predictions.csv of an earlier evaluation."
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="PART", help="Which part of the model's own split to evaluate: test, validation, train or all."
        ),
    ] = None,
    aim: Annotated[
        str | None,
        typer.Option(metavar="AIM", help="Also choose thresholds on these data: youden, or sensitivity:0.95."),
    ] = None,
    body_part: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Only images of this body part, repeatable.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV file (columns image,group): images that belong together.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="ENGINE", help="Inference engine: auto, openvino or keras (default: BONESCREEN_ENGINE)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model against human labels: per image, study and body part, with 95 % intervals.

    If the package records which images it was trained on, only the test part of the data is evaluated. Where the data
    say where the findings lie, it also measures whether the maps point at them, and draws 30 maps: maps.html.

    Example: bonescreen evaluate fracture-5 --data fracatlas -o measured --aim sensitivity:0.95
    """
    require_packages("evaluate", "sklearn", "matplotlib", "jinja2")
    from training.data.leakage import PARTS, select_part
    from training.data.read_dataset import read_dataset
    from training.disk import make_folder
    from training.evaluate.baseline import Baseline, check_after_reading, check_before_reading
    from training.evaluate.map_pictures import MAPS_FILE
    from training.evaluate.report import PAGE_FILE
    from training.evaluate.thresholds import ThresholdAim
    from xray.network.package import ModelPackage, load_package

    settings = settings_here()
    _require_one_of("part", part, PARTS)
    _require_one_of("engine", engine, ENGINES)
    engine_name = cast("EngineName", engine or settings.engine)
    threshold_aim = None if aim is None else ThresholdAim.parse(aim)
    package, baseline = load_package(model), _open_baseline(against)
    listed = read_dataset(
        data,
        body_parts=[each.upper() for each in body_part or ()],
        groups=groups,
        pseudonym_key=settings.pseudonym_key,
    )
    dataset, part_name = select_part(package, listed, part)
    dataset.require_both_classes(f"the data to measure on (part: {part_name})")
    check_before_reading(dataset, package.card, baseline)
    make_folder(output)
    check = partial(check_after_reading, card=package.card, baseline=baseline)
    run = _predict(package, dataset, engine_name, settings, output, check)
    _save_predictions(run.predictions, output)
    if isinstance(baseline, ModelPackage):
        rows = _predict(baseline, dataset, engine_name, settings, output).predictions
        baseline = Baseline.from_package(baseline, rows, dataset)
    print_notice("Computing metrics with their intervals ...")
    report = _write_report(run, dataset, part_name, threshold_aim, baseline, output)
    _warn_of_leakage(report)
    if as_json:
        print(report.to_json())
        return
    print_evaluation(report)
    print_line(f"The report with plots and pictures: {output / PAGE_FILE}")
    if report.pointing:
        print_line(f"Maps beside the marked findings: {output / MAPS_FILE}")
    print_notice(RESEARCH_NOTICE)


def _require_one_of(option: str, given: str | None, known: tuple[str, ...]) -> None:
    if given is not None and given not in known:
        raise UsageError(f"--{option} must be one of {', '.join(known)}, not {given!r}")


def _open_baseline(against: str | None) -> "Baseline | ModelPackage | None":
    """Open the baseline before the model itself runs, which can take hours."""
    from training.evaluate.baseline import Baseline
    from xray.network.package import load_package

    if against is None:
        return None
    return Baseline.from_table(Path(against)) if Path(against).is_file() else load_package(against)


def _predict(
    package: "ModelPackage",
    dataset: "Dataset",
    engine_name: EngineName,
    settings: Settings,
    output: Path,
    check: "Callable[[Dataset], None] | None" = None,
) -> _ModelRun:
    """Read the images as the package's preprocessing says, check the readable ones, and predict them."""
    from training.data.images import load_images
    from training.evaluate.predictions import Predictions, infer_outputs
    from training.progress import Progress
    from xray.images.preprocessing import Preprocessing
    from xray.network.open_engine import open_engine_here

    card = package.card
    engine = open_engine_here(package, settings, engine_name)
    print_notice(f"Reading {count(len(dataset), 'image')} ...")
    progress = Progress(sys.stderr)
    readable, images, unreadable = load_images(
        dataset, Preprocessing.from_id(card.preprocessing), output / CACHE_FOLDER, progress
    )
    if check is not None:
        check(readable)
    print_notice(f"Predicting {count(len(images), 'image')} with {card.name} {card.version} ({engine.name}) ...")
    with progress.bar("predicting", len(images)) as step:
        outputs = infer_outputs(engine, images, step)
    if card.distance is not None and (beyond := int((outputs.distances > card.distance.threshold).sum())):
        print_notice(
            f"{beyond:,} of {count(len(images), 'image')} {'is' if beyond == 1 else 'are'} unlike "
            "what the model has learnt from: screening leaves them out of their studies, the metrics count them."
        )
    predictions = Predictions.of(readable, outputs.logits, card.probability(outputs.logits))
    return _ModelRun(package, engine, readable, outputs.cams, predictions, unreadable)


def _save_predictions(predictions: "Predictions", output: Path) -> None:
    """Save the predictions first, as they took longest; a report of a different model must not stay beside them."""
    from training.evaluate.baseline import JSON_FILE
    from training.evaluate.map_pictures import MAPS_FILE
    from training.evaluate.predictions import PREDICTIONS_FILE
    from training.evaluate.report import PAGE_FILE

    for name in (JSON_FILE, PAGE_FILE, MAPS_FILE):
        (output / name).unlink(missing_ok=True)
    predictions.write(output / PREDICTIONS_FILE)


def _write_report(
    run: _ModelRun,
    dataset: "Dataset",
    part: str,
    aim: "ThresholdAim | None",
    baseline: "Baseline | None",
    output: Path,
) -> "EvaluationReport":
    """Evaluate the predictions and write the report."""
    from training.data.leakage import check_leakage
    from training.evaluate.baseline import JSON_FILE
    from training.evaluate.map_pictures import MAPS_FILE, draw_maps, maps_page
    from training.evaluate.mistakes import draw_mistakes, worst_mistakes
    from training.evaluate.pointing import measure_pointing
    from training.evaluate.predictions import in_scope
    from training.evaluate.report import LEAKAGE_TITLES, PAGE_FILE, Data, EvaluationReport, Model, evaluation_page
    from training.report_page import write_report
    from xray.images.preprocessing import Preprocessing

    card, rows = run.package.card, run.predictions
    preprocessing = Preprocessing.from_id(card.preprocessing)
    is_inside = in_scope(rows, card.body_parts)
    inside, inside_examples, cams = rows.select(is_inside), run.readable.select(is_inside), run.cams[is_inside]
    mistakes = worst_mistakes(inside, card.image_threshold.value)
    report = EvaluationReport(
        model=Model(
            card.name, card.version, run.package.digest, card.finding, card.wording, card.body_parts,
            card.calibration, run.engine.name,
        ),
        data=Data(
            name=dataset.terms.name,
            folder=str(dataset.root),
            part=part,
            listed=len(dataset),
            measured=len(rows),
            unreadable=dict(run.unreadable),
            notes=dataset.notes,
        ),
        leakage=check_leakage(run.package, dataset),
        evaluation=_evaluate(run, aim),
        pointing=measure_pointing(inside_examples, cams, preprocessing),
        aim=None if aim is None else str(aim),
        mistakes=mistakes,
        comparison=None if baseline is None else baseline.compare_with(card, rows),
    )  # fmt: skip
    page = evaluation_page(report, inside, draw_mistakes(mistakes, dataset.root, card, run.engine))
    pages = {JSON_FILE: report.to_json() + "\n", PAGE_FILE: page}
    if report.pointing:
        pictures = draw_maps(inside_examples, cams, inside.probabilities, preprocessing, card.heat_map_scale)
        title = f"{card.name} {card.version} on {dataset.terms.name}"
        how = f"{LEAKAGE_TITLES[report.leakage.verdict]} {report.leakage.text}"
        pages[MAPS_FILE] = maps_page(title, card.finding, how, report.pointing, pictures)
    write_report(output, pages)
    return report


def _evaluate(run: _ModelRun, aim: "ThresholdAim | None") -> "Evaluation":
    """Evaluate at the card's thresholds, and at those that an aim chooses on these data."""
    from training.evaluate.evaluation import evaluate
    from training.evaluate.predictions import in_scope

    card, rows = run.package.card, run.predictions
    image_thresholds, study_thresholds = [card.image_threshold], [card.study_threshold]
    if aim is not None:
        images = rows.select(in_scope(rows, card.body_parts))
        studies = images.by_study()
        image_thresholds.append(aim.choose_threshold(images, f"these {count(len(images), 'image')}"))
        study_thresholds.append(aim.choose_threshold(studies, f"these {count(len(studies), 'study')}"))
    return evaluate(rows, image_thresholds, study_thresholds, scope=card.body_parts)


def _warn_of_leakage(report: "EvaluationReport") -> None:
    """Say on standard error whether the models were trained on these images, unless they certainly were not."""
    _print_leakage("", report.leakage)
    if report.comparison is None:
        return
    name = report.names[1]
    if report.comparison.leakage is None:
        print_notice(f"Whether {name} was trained on these images is not known.")
    else:
        _print_leakage(f"{name}: ", report.comparison.leakage)


def _print_leakage(name: str, leakage: "Leakage") -> None:
    from training.data.leakage import LeakageVerdict

    if leakage.verdict is not LeakageVerdict.HELD_OUT:
        warning = "" if leakage.verdict is LeakageVerdict.UNKNOWN else "WARNING: "
        print_notice(f"{warning}{name}{leakage.text}")


def print_evaluation(report: "EvaluationReport") -> None:
    """Print the metrics of images, of studies unless each is a single image, and the comparison."""
    evaluation = report.evaluation
    print_level("images", evaluation.images)
    if evaluation.studies_repeat_images:
        print_line("Each study has one image, so the numbers per study are the same.")
    else:
        print_level("studies", evaluation.studies)
    for population in evaluation.out_of_scope:
        print_line(f"Out of scope, not included above: {count(population.n, 'image')} of {population.name}")
    print_line("")
    if report.pointing:
        print_pointing(report.pointing, report.model.finding)
    if report.comparison is not None:
        _print_comparison(" minus ".join(report.names), report.comparison)


def print_level(rows: str, level: "Level") -> None:
    """Print the thresholds, the populations, and their metrics one a line.

    Parameters
    ----------
    rows : str
        What the level is of: ``"images"`` or ``"studies"``.
    level : Level
        Its evaluation.
    """
    print_line(rows.capitalize(), "bold")
    for threshold in level.thresholds:
        print_wrapped(f"  threshold {threshold.value:.3f}: ", threshold.chosen)
    print_line("")
    titles = ("measured on", f" {rows}", " positive", " groups")
    print_table(titles, [(p.name, f"{p.n:,}", f"{p.positives:,}", f"{p.groups:,}") for p in level.populations])
    print_line("")
    table = [row for population in level.populations for row in _metric_rows(population)]
    print_table(("measured on", "metric", " value", " 95 % interval"), table)
    for population in level.populations:
        if population.missing:
            print_wrapped(f"  {population.name}: ", population.missing)
    print_line("")


def _metric_rows(population: "Population") -> list[tuple[str, ...]]:
    from training.evaluate.bootstrap import RANKING_METRICS, THRESHOLD_METRICS
    from training.evaluate.population import METRIC_NAMES

    named = [(METRIC_NAMES[metric], getattr(population, metric)) for metric in RANKING_METRICS]
    for value, at in {at.threshold: at for at in population.at}.items():
        named += [(f"{METRIC_NAMES[metric]} at {value:.3f}", getattr(at, metric)) for metric in THRESHOLD_METRICS]
    return [
        (population.name, name, f"{estimate.value:.3f}", estimate.interval)
        for name, estimate in named
        if estimate is not None
    ]


def print_pointing(pointing: "Sequence[Pointing]", finding: str) -> None:
    """Print how well the maps point at marked findings, a metric a line.

    Parameters
    ----------
    pointing : sequence of Pointing
        What was measured.
    finding : str
        What a positive label means.
    """
    print_line(f"Positive images whose {finding} is marked", "bold")
    rows = [
        (p.name, f"{p.n:,}", f"{p.groups:,}", name, f"{estimate.value:.3f}", estimate.interval, f"{by_chance:.3f}")
        for p in pointing
        for name, estimate, by_chance in (
            ("pointing game", p.game, p.game_by_chance),
            (f"map mass on the {finding}", p.mass, p.mass_by_chance),
        )
    ]
    print_table(("measured on", " images", " groups", "metric", " value", " 95 % interval", " by chance"), rows)
    for p in pointing:
        if p.missing:
            print_wrapped(f"  {p.name}: ", p.missing)
    print_line("")


def _print_comparison(title: str, comparison: "Comparison") -> None:
    from training.evaluate.population import METRIC_NAMES

    print_line(title, "bold")
    rows: Sequence[Sequence[str]] = [
        (level, METRIC_NAMES[d.measure], f"{d.difference:+.3f}", d.interval, f"{d.p:.3f}")
        for level, differences in (("images", comparison.images), ("studies", comparison.studies))
        for d in differences
    ]
    if rows:
        print_table(("per", "metric", " difference", " 95 % interval", " p"), rows)
    if comparison.missing:
        print_wrapped("  ", f"{comparison.missing}.")
    print_line("")
