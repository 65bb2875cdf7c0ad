"""Model packages: which there are, what they say of themselves, whether they are whole."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bonescreen.commands.runs import Json
from bonescreen.context import settings_here
from bonescreen.terminal import print_line, print_table, print_wrapped, write_json
from xray.errors import PackageError
from xray.settings import Settings
from xray.vocabulary import RESEARCH_NOTICE

if TYPE_CHECKING:
    from xray.network.card import Card, TrainingData
    from xray.network.package import ModelPackage

app = typer.Typer(name="models", help="Look at the model packages: list, show, verify.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="An installed package's name, or a package's folder.")]


@app.command("list")
def list_packages(as_json: Json = False) -> None:
    """List the model packages installed here; a star marks the one that BONESCREEN_MODEL chooses.

    Example: bonescreen models list
    """
    listed = _listed(settings_here())
    if as_json:
        write_json(listed)
        return
    if not listed:
        print_line("No model package is installed.")
        return
    titles = ("", "name", "version", "finding", "digest", "body parts")
    print_table(titles, [_row(package) for package in listed])
    for package in listed:
        if package["problem"]:
            print_line(f"PROBLEM: {package['problem']}", "bold")


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show a model package's card: what it looks for, on what terms its data are, how good it was found to be.

    Example: bonescreen models show fracture-3
    """
    from xray.network.package import load_package

    package = load_package(name)
    if as_json:
        card = json.loads(package.card.to_json())
        write_json({**card, "digest": package.digest, "path": str(package.path)})
        return
    _print_card(package)


@app.command()
def verify(name: Name) -> None:
    """Check a model package: every file against its digest, and the network against its golden outputs.

    Example: bonescreen models verify fracture-3
    """
    from xray.network.open_engine import open_engine
    from xray.network.openvino_graph import check_graph, holds_graph
    from xray.network.package import load_package

    settings = settings_here()
    package = load_package(name)
    print_line(f"{len(package.card.files)} files match the digests on the card.")
    engine = open_engine(package, settings.engine, settings.graph_cache)
    if holds_graph(package):
        check_graph(package)
        print_line("The package's OpenVINO graph agrees with its weights.")
    print_line(
        f"The {engine.name} engine gives the golden outputs: {package.card.name} {package.card.version} is good."
    )


def _listed(settings: Settings) -> list[dict[str, Any]]:
    from xray.network.package import installed_packages, load_package

    installed = installed_packages()
    listed = []
    for name in installed if settings.model in installed else [settings.model, *installed]:
        entry: dict[str, Any] = {"name": name, "in_use": name == settings.model, "problem": None}
        try:
            package = load_package(name)
        except PackageError as error:
            listed.append({**entry, "problem": str(error)})
            continue
        card = package.card
        about = {"version": card.version, "finding": card.finding, "body_parts": list(card.body_parts)}
        listed.append({**entry, **about, "digest": package.digest, "path": str(package.path)})
    return listed


def _row(package: dict[str, Any]) -> list[str]:
    star = "*" if package["in_use"] else " "
    if package["problem"]:
        return [star, package["name"], "-", "-", "-", "not usable, see below"]
    about = [package["version"], package["finding"], package["digest"][:12], " ".join(package["body_parts"])]
    return [star, package["name"], *about]


def _print_card(package: "ModelPackage") -> None:
    card = package.card
    print_line(f"{card.name} {card.version}", "bold")
    for name, text in _lines(card):
        print_wrapped(f"  {name:<15} ", text)
    print_line(f"  {'digest':<15} {package.digest}")
    print_line(f"  {'folder':<15} {package.path}")
    if card.metrics:
        print_line("")
        titles = ("metric", " value", " 95 % interval", "measured on")
        rows = [(m.name, f"{m.value:.3f}", m.interval, m.population) for m in card.metrics]
        print_table(titles, rows)
    print_line("")
    print_line("Before you believe a number:", "bold")
    told = any(RESEARCH_NOTICE in limit for limit in card.limits)
    for limit in (*card.limits, *(() if told else (RESEARCH_NOTICE,))):
        print_wrapped("  - ", limit)


def _lines(card: "Card") -> list[tuple[str, str]]:
    study, image = card.study_threshold, card.image_threshold
    return [
        ("finding", f"{card.finding}, worded {card.wording!r}"),
        ("body parts", " ".join(card.body_parts)),
        ("network", f"{card.backbone}, input {card.input_size} x {card.input_size}, {card.preprocessing}"),
        ("study threshold", f"{study.value:.3f} ({study.chosen})"),
        ("image threshold", f"{image.value:.3f} ({image.chosen})"),
        *(line for data in card.training_data for line in _terms(data)),
    ]


def _terms(data: "TrainingData") -> list[tuple[str, str]]:
    return [
        ("trained on", f"{data.name}: {data.role}"),
        ("  licence", data.licence),
        ("  terms", data.terms),
        ("  attribution", data.attribution),
    ]
