"""See what a model's network sees: activations and class activation maps at its layers, and whether to believe them."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bonescreen.commands.failures import reason_text
from bonescreen.context import settings_here
from bonescreen.terminal import print_line, print_notice, print_table
from xray.errors import ArchiveOutage, FileFault, UsageError
from xray.vocabulary import RESEARCH_NOTICE, Reason

if TYPE_CHECKING:
    from training.explain.grad_cam import InputImage
    from training.explain.layers import BackboneLayer
    from xray.images.preprocessing import Preprocessing
    from xray.network.package import ModelPackage

MOST_CHANNELS = 64


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An installed package's name, or a package's folder.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Radiographs: PNG, JPEG, TIFF or DICOM files.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for page and pictures.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A layer to draw, repeatable; one a resolution by default.")
    ] = None,
    list_layers: Annotated[bool, typer.Option("--list", help="List the layers that can be looked at.")] = False,
    channels: Annotated[int, typer.Option(min=1, max=MOST_CHANNELS, help="How many channels to draw of a layer.")] = 16,
    check: Annotated[bool, typer.Option("--check", help="Check whether the network's map may be believed.")] = False,
) -> None:
    """Draw what a network sees: activations and Grad-CAM at its layers, as one page with its pictures.

    Grad-CAM (Selvaraju et al. 2017) is of the logit. With --check the weights are randomised from the head down
    (Adebayo et al. 2018), and the film is taken away in the map's order (Petsiuk et al. 2018).

    Example: bonescreen layers fracture-3 wrist.png -o seen --layer pool4_relu --layer relu
    """
    missing = [name for name in ("tensorflow", "matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"layers needs {' and '.join(missing)}: pip install 'bonescreen[tensorflow]'")
    if not list_layers and (not images or output is None):
        raise UsageError("layers needs radiographs and a folder, IMAGE... -o DIR; or --list")
    from training.progress import load_backend

    load_backend()
    from training.explain.layers import find_layers, telling_layers, visible_layers
    from xray.network.builder import load_network
    from xray.network.package import load_package

    package = load_package(model)
    network = load_network(package)
    visible = visible_layers(network)
    chosen = find_layers(visible, layer) if layer else telling_layers(visible)
    if list_layers or not images or output is None:
        _print_layers(visible, chosen)
        return
    unread = _draw(package, network, chosen, images, output, channels=channels, with_check=check)
    print_notice(RESEARCH_NOTICE)
    if unread:
        raise typer.Exit(1)


def _print_layers(visible: "Sequence[BackboneLayer]", chosen: "Sequence[BackboneLayer]") -> None:
    rows = [
        ("*" if each in chosen else " ", each.name, each.kind, f"{each.height} x {each.width}", str(each.channels))
        for each in visible
    ]
    print_table(("", "layer", "kind", " height x width", " channels"), rows)


def _draw(
    package: "ModelPackage",
    network: Any,
    chosen: "Sequence[BackboneLayer]",
    images: Sequence[Path],
    output: Path,
    *,
    channels: int,
    with_check: bool,
) -> dict[str, str]:
    """Look at the films that can be read and write the report; returns the others, and why."""
    from training.explain.grad_cam import look_at
    from training.explain.map_check import check_map
    from training.explain.report import ExplainReport, write_report
    from xray.images.preprocessing import Preprocessing
    from xray.network.open_engine import open_engine

    films, unread = _read(images, Preprocessing.from_id(package.card.preprocessing))
    if not films:
        raise UsageError(f"none of the {len(images)} images can be read as a radiograph")
    sights = []
    for sight in look_at(network, package.card, films, chosen, channels):
        sights.append(sight)
        print_notice(f"{sight.film.name}: probability {sight.probability:.3f} ({len(sights)} of {len(films)})")
    checked = None
    if with_check:
        settings = settings_here()
        print_notice("checking the map: random weights, deletion and insertion")
        engine = open_engine(package, settings.engine, settings.graph_cache)
        checked = check_map(network, package.card, engine, sights)
        print_notice(checked.cascade.verdict)
        print_notice(checked.verdict)
    print_line(str(write_report(ExplainReport(package, tuple(sights), unread, checked), output)))
    return unread


def _read(images: Sequence[Path], preprocessing: "Preprocessing") -> "tuple[list[InputImage], dict[str, str]]":
    from training.explain.grad_cam import distinct_names, read_film

    films, unread, files = [], {}, list(dict.fromkeys(images))
    for image, name in zip(files, distinct_names(files), strict=True):
        try:
            films.append(read_film(image, name, preprocessing))
        except FileFault as fault:
            missing = fault.reason == Reason.VANISHED
            unread[name] = "there is no such file" if missing else reason_text(fault.reason)
        except ArchiveOutage as outage:
            unread[name] = str(outage)
        else:
            continue
        print_notice(f"{image}: {unread[name]}")
    return films, unread
