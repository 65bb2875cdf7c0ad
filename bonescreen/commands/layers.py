"""Layers: explain a model's predictions by activations and Grad-CAM at its layers, and check its map."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bonescreen.context import require_packages, settings_here
from bonescreen.terminal import print_line, print_notice, print_table
from xray.errors import ArchiveOutage, FileFault, UsageError
from xray.vocabulary import RESEARCH_NOTICE, reason_text

if TYPE_CHECKING:
    from training.explain.input_images import InputImage
    from training.explain.layers import BackboneLayer
    from xray.images.preprocessing import Preprocessing
    from xray.network.package import ModelPackage

MOST_CHANNELS = 64


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An installed package's name, or a package's folder.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", help="Radiographs: PNG, JPEG, TIFF or DICOM files.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for layers.html and the pictures.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A layer to draw beside the model's map, repeatable. By default one for each resolution.",
        ),
    ] = None,
    list_layers: Annotated[bool, typer.Option("--list", help="List the layers that can be drawn.")] = False,
    channels: Annotated[
        int, typer.Option(min=1, max=MOST_CHANNELS, help="Number of channels to draw of each layer.")
    ] = 16,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Check whether the map depends on the trained weights, and the prediction on the highlighted areas "
            "(randomisation, deletion and insertion).",
        ),
    ] = False,
) -> None:
    """Explain a model's predictions: its map, and activations and Grad-CAM at its layers, as a page with pictures.

    For each image it draws the model's own map first, as screening shows it. Then each layer: Grad-CAM, the areas that
    raised the logit by way of that layer (Selvaraju et al. 2017), and the channels that vary most. With --check the
    weights are randomised from the head down (Adebayo et al. 2018), and parts of the image are deleted and inserted in
    the order of the map (Petsiuk et al. 2018).

    Example: bonescreen layers fracture-5 wrist.png -o explained --layer block14_add --layer top_bn_relu6
    """
    require_packages("layers", "tensorflow", "matplotlib", "jinja2")
    if not list_layers and (not images or output is None):
        raise UsageError("layers needs radiographs and a folder: IMAGE... -o DIR; or --list")
    from training.progress import load_backend

    load_backend()
    from training.explain.layers import default_layers, drawable_layers, find_layers
    from xray.network.builder import load_network
    from xray.network.package import load_package

    package = load_package(model)
    network = load_network(package)
    drawable = drawable_layers(network)
    chosen = find_layers(drawable, layer) if layer else default_layers(drawable)
    if list_layers or not images or output is None:
        _print_layers(drawable, chosen, network.outputs[1].shape[1:])
        return
    unreadable = _explain(package, network, chosen, images, output, channels=channels, with_check=check)
    print_notice(RESEARCH_NOTICE)
    if unreadable:
        raise typer.Exit(1)


def _print_layers(
    drawable: "Sequence[BackboneLayer]", chosen: "Sequence[BackboneLayer]", map_shape: tuple[int, int]
) -> None:
    rows = [
        ("*" if each in chosen else " ", each.name, each.kind, f"{each.height} x {each.width}", str(each.channels))
        for each in drawable
    ]
    print_table(("", "layer", "kind", " height x width", " channels"), rows)
    height, width = map_shape
    print_notice(f"The layers marked * are drawn, and first the model's own map of {height} x {width} cells.")


def _explain(
    package: "ModelPackage",
    network: Any,
    chosen: "Sequence[BackboneLayer]",
    files: Sequence[Path],
    output: Path,
    *,
    channels: int,
    with_check: bool,
) -> dict[str, str]:
    """Explain the images that can be read and write the report; return the others, and why they could not be read."""
    from training.disk import make_folder
    from training.explain.grad_cam import explain_images
    from training.explain.map_check import check_map
    from training.explain.report import ExplainReport
    from training.progress import Progress
    from xray.images.preprocessing import Preprocessing
    from xray.network.open_engine import open_engine

    images, unreadable = _read_images(files, Preprocessing.from_id(package.card.preprocessing))
    if not images:
        raise UsageError("none of the files can be read as a radiograph")
    make_folder(output)
    progress, explanations = Progress(sys.stderr), []
    with progress.bar("explaining", len(images)) as advance:
        for explanation in explain_images(network, package.card, images, chosen, channels):
            explanations.append(explanation)
            print_notice(
                f"{explanation.image.name}: probability {explanation.probability:.3f} "
                f"({len(explanations)} of {len(images)})"
            )
            advance(1)
    map_check = None
    if with_check:
        settings = settings_here()
        print_notice("Checking the map: random weights, deletion and insertion ...")
        engine = open_engine(package, settings.engine, settings.graph_cache)
        map_check = check_map(network, package.card, engine, explanations, progress)
        print_notice(map_check.randomisation.conclusion)
        print_notice(map_check.conclusion)
    print_line(str(ExplainReport(package, tuple(explanations), unreadable, map_check).write(output, progress)))
    return unreadable


def _read_images(files: Sequence[Path], preprocessing: "Preprocessing") -> "tuple[list[InputImage], dict[str, str]]":
    from training.explain.input_images import distinct_names, read_input_image

    images, unreadable, distinct = [], {}, list(dict.fromkeys(files))
    for file, name in zip(distinct, distinct_names(distinct), strict=True):
        try:
            images.append(read_input_image(file, name, preprocessing))
        except UsageError:
            unreadable[name] = "there is no such file"
        except FileFault as fault:
            unreadable[name] = reason_text(fault.reason)
        except ArchiveOutage as outage:
            unreadable[name] = str(outage)
        else:
            continue
        print_notice(f"{file}: {unreadable[name]}")
    return images, unreadable
