"""Model packages: list them, show their cards, verify their files."""

import json
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bonescreen.command_group import CommandGroup, PlainCommand
from bonescreen.commands.arguments import Json
from bonescreen.context import settings_here
from bonescreen.installed_models import list_models
from bonescreen.terminal import print_line, print_table, print_wrapped, write_json
from xray.vocabulary import RESEARCH_NOTICE, UNLIKE

if TYPE_CHECKING:
    from xray.network.card import Card, Distance, TrainingData
    from xray.network.package import ModelPackage

app = typer.Typer(cls=CommandGroup, help="List, show and verify model packages.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of an installed package, or the folder of one.")]


@app.command("list", cls=PlainCommand)
def list_packages(as_json: Json = False) -> None:
    """List the installed model packages; a star marks the one in use.

    BONESCREEN_MODEL chooses it, by name or folder.

    Example: bonescreen models list
    """
    listed = list_models(settings_here())
    if as_json:
        write_json(listed)
        return
    if not listed:
        print_line("No model package is installed.")
        return
    titles = ("", "name", "version", "finding", " body parts", "digest")
    print_table(titles, [_row(package) for package in listed])
    for package in listed:
        if package["problem"]:
            print_line(f"PROBLEM: {package['problem']}", "bold")


@app.command(cls=PlainCommand)
def show(name: Name, as_json: Json = False) -> None:
    """Show a model package's card: what it finds, in which body parts, and how well.

    Also the licence and terms of the data that it was trained on: read these before you pass a model on.

    Example: bonescreen models show fracture-5
    """
    from xray.network.package import load_package

    package = load_package(name)
    if as_json:
        card = json.loads(package.card.to_json())
        write_json({**card, "digest": package.digest, "path": str(package.path)})
        return
    _print_card(package)


@app.command(cls=PlainCommand)
def verify(name: Name) -> None:
    """Check that a model package is complete and works on this machine.

    Every file is checked against its digest, and the network's outputs against those in the package.

    Example: bonescreen models verify fracture-5
    """
    from xray.network.open_engine import open_engine
    from xray.network.openvino_graph import check_graph, holds_graph
    from xray.network.package import load_package
    from xray.network.precision import served_precisions

    settings = settings_here()
    package = load_package(name)
    print_line(f"{len(package.card.files)} files match the digests on the card.")
    if holds_graph(package):
        check_graph(package)
        print_line("The package's OpenVINO graph agrees with its weights.")
    served = served_precisions(package, settings.engine, settings.precision)
    for precision in served:
        engine = open_engine(package, settings.engine, settings.graph_cache, precision)
        print_line(f"The {engine.name} engine gives the golden outputs in {precision}.")
    for precision in package.card.allowed_precisions:
        if precision not in served:
            print_line(f"Not checked in {precision}: this machine does not compute it, or BONESCREEN_PRECISION is set.")
    print_line(f"{package.card.name} {package.card.version} is OK.")


def _row(package: dict[str, Any]) -> list[str]:
    star = "*" if package["in_use"] else " "
    if package["problem"]:
        return [star, package["name"], "-", "-", "-", "not usable, see below"]
    about = [package["version"], package["finding"], str(len(package["body_parts"])), package["digest"][:12]]
    return [star, package["name"], *about]


def _print_card(package: "ModelPackage") -> None:
    card = package.card
    print_line(f"{card.name} {card.version}", "bold")
    for name, text in _lines(card):
        print_wrapped(f"  {name:<15} ", text)
    print_line(f"  {'folder':<15} {package.path}")
    # Beside its title it would be wider than 80 columns.
    print_line("  digest")
    print_line(f"    {package.digest}")
    if card.metrics:
        print_line("")
        print_line("Metrics, with their 95 % intervals", "bold")
        widest = max(len(metric.name) for metric in card.metrics)
        for population, metrics in groupby(card.metrics, lambda metric: metric.population):
            print_wrapped("  On ", population)
            for metric in metrics:
                print_line(f"    {metric.name:<{widest}}  {metric.value:.3f}  {metric.interval}")
    if card.distance is not None and card.distance.shares:
        print_line("")
        print_line("Share out of scope", "bold")
        for share in card.distance.shares:
            print_wrapped(f"  {100 * share.value:5.1f} %  ", share.population)
    if card.precisions:
        print_line("")
        print_line("Precisions besides fp32, compared with it", "bold")
        for each in card.precisions:
            print_wrapped("  On ", each.population)
            print_line(
                f"    {each.precision}  AUROC {each.auroc:.4f} (fp32 {each.fp32_auroc:.4f}), same label "
                f"{100 * each.same_label:.1f} %"
            )
            if each.pointing_game is not None and each.fp32_pointing_game is not None:
                print_line(f"          pointing game {each.pointing_game:.3f} (fp32 {each.fp32_pointing_game:.3f})")
    print_line("")
    print_line("Limits", "bold")
    included = any(RESEARCH_NOTICE in limit for limit in card.limits)
    for limit in (*card.limits, *(() if included else (RESEARCH_NOTICE,))):
        print_wrapped("  - ", limit)


def _lines(card: "Card") -> list[tuple[str, str]]:
    study, image = card.study_threshold, card.image_threshold
    return [
        ("finding", f"{card.finding}, shown as {card.wording!r}"),
        ("body parts", " ".join(card.body_parts)),
        ("modalities", " ".join(card.modalities)),
        ("network", f"{card.backbone}, input {card.input_size} x {card.input_size}, {card.preprocessing}"),
        ("study threshold", f"{study.value:.3f} ({study.chosen})"),
        ("image threshold", f"{image.value:.3f} ({image.chosen})"),
        *([] if card.distance is None else [("scope", _scope_text(card.distance))]),
        *(line for data in card.training_data for line in _terms(data)),
    ]


def _scope_text(distance: "Distance") -> str:
    return (
        f"images up to a distance of {distance.threshold:.3f} from the training images ({distance.chosen}); those "
        f"beyond are {UNLIKE}"
    )


def _terms(data: "TrainingData") -> list[tuple[str, str]]:
    return [
        ("trained on", f"{data.name}: {data.role}"),
        ("  licence", data.licence),
        ("  terms", data.terms),
        ("  attribution", data.attribution),
    ]
