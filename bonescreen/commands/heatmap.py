"""Heat maps, drawn from the stored class activation map and the original file."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.console import Console

from bonescreen.chosen_studies import find_named, find_studies
from bonescreen.commands.arguments import RunOption, as_count, as_study_keys
from bonescreen.context import open_ledger, roots_here, settings_here
from bonescreen.exports.private_file import check_output_folder, make_private_folders, open_private
from bonescreen.pictures import ChangedFile, cam_of, find_package, read_gray
from bonescreen.results_table import why_out_of_scope
from bonescreen.terminal import print_line, print_notice, print_to
from db.queries import ImageRow, Study
from db.runs import require_run
from db.session import Database
from training.progress import Bar
from xray.archive_root import Root
from xray.errors import FileFault, StorageOutage, UsageError
from xray.settings import Settings
from xray.vocabulary import RESEARCH_NOTICE, ImageState, Label, reason_text

ENDING = ".heatmap.png"
LONGEST_NAME = 255
"""Bytes of a file's name that Linux file systems take."""


def heatmap(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the pictures; it is made if missing.")
    ],
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STUDY",
            callback=as_study_keys,
            help="Studies: their names in `bonescreen results`, or unambiguous endings of them.",
        ),
    ] = None,
    run: RunOption = None,
    flagged: Annotated[
        bool, typer.Option("--flagged", help="Draw the run's flagged studies, the highest score first.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", callback=as_count, help="With --flagged, at most N studies (default: all)."),
    ] = None,
    own_scale: Annotated[
        bool,
        typer.Option(
            "--own-scale",
            help="End each picture's colours at its own highest value. The picture says so, as such pictures cannot be "
            "compared.",
        ),
    ] = False,
) -> None:
    """Draw heat maps of studies' images as PNG files.

    They show which areas raised the fracture score; all images share one colour scale, so normal images stay dark. If
    the map of a positive image is dark too, the picture says so; --own-scale shows more of it.

    Prints the paths of the pictures; DIR mirrors the archive's folder structure. Without --run, the newest run is
    drawn. What cannot be drawn is named, and the exit code is 1.

    Example: bonescreen heatmap patient00001/study1_positive -o heatmaps
    """
    if flagged and studies:
        raise UsageError("--flagged draws all flagged studies; leave it out to draw the studies that you name")
    if not flagged and not studies:
        raise UsageError("STUDY is missing; name studies, or draw all flagged ones with --flagged")
    if limit is not None and not flagged:
        raise UsageError("--limit is for --flagged; it limits nothing else")
    settings = settings_here()
    with open_ledger(settings) as database:
        if run is not None:
            require_run(database, run)
        if flagged:
            total, chosen = find_studies(database, run, flagged=True, limit=limit)
        else:
            total, chosen = _named(database, studies or [], run)
        roots = roots_here(settings, database)
        check_output_folder(output, roots, "take the pictures for radiographs")
        whole = _draw_all(chosen, Drawing(settings, roots, output, own_scale), total)
    if flagged and not total:
        print_notice("No study is flagged.")
    print_notice(RESEARCH_NOTICE)
    if not whole:
        raise typer.Exit(1)


def _named(database: Database, keys: Sequence[str], run: int | None) -> tuple[int, Iterator[Study]]:
    found = find_named(database, keys, run)
    archives = sorted({image.archive for study in found.values() for image in study.images})
    if len(archives) > 1:
        raise UsageError(
            f"these studies are of more than one archive ({', '.join(archives)}), and their images may have the same "
            "paths; draw each archive's into a folder of its own"
        )
    return len(found), iter(found.values())


@dataclass
class Drawing:
    """Where and how pictures are drawn, and what is said of each."""

    settings: Settings
    roots: Mapping[str, Root]
    output: Path
    own_scale: bool
    print_path: Callable[[str], object] = print_line
    say: Callable[[str], object] = print_notice


def _draw_all(studies: Iterator[Study], drawing: Drawing, total: int) -> bool:
    """Draw studies, one after the other; return False when a heat map could not be drawn."""
    # A terminal shows everything above the bar; elsewhere paths go to standard output, and the rest to standard error.
    console = Console(stderr=not sys.stdout.isatty())
    if console.is_interactive:
        drawing.print_path = partial(print_to, console) if sys.stdout.isatty() else print_line
        drawing.say = partial(print_to, console) if sys.stderr.isatty() else print_notice
    whole = True
    with Bar(console, "Drawing heat maps", total, unit="study") as bar:
        for study in studies:
            for image in study.images:
                whole &= _draw(image, study, drawing)
            bar.advance(1)
    return whole


def _draw(image: ImageRow, study: Study, drawing: Drawing) -> bool:
    """Draw one image, or say why not; return False when a heat map could not be drawn."""
    if image.probability is None:
        why = "not screened yet" if image.reason is None else f"no prediction: {reason_text(image.reason)}"
        drawing.say(f"{image.image}: {why}")
        return True
    # Evidence of what the model does not know would read as a result, and there is none.
    if image.state is ImageState.OUT_OF_SCOPE:
        drawing.say(f"{image.image}: out of scope: {why_out_of_scope(image)}")
        return True
    target = drawing.output / _target(PurePosixPath(image.image))
    try:
        picture = _render(image, study, drawing)
        make_private_folders(target.parent)
        with open_private(target) as file:
            file.write(picture)
    except ChangedFile:
        drawing.say(f"{image.image}: the file has changed since it was screened; screen its archive again")
        return False
    except FileFault as fault:
        drawing.say(f"{image.image}: cannot be read any more: {reason_text(fault.reason)}")
        return False
    except StorageOutage as outage:
        drawing.say(f"{image.image}: {outage}")
        return False
    drawing.print_path(str(target))
    return True


def _target(image: PurePosixPath) -> PurePosixPath:
    """Name an image's heat map; a name too long for a file system keeps its beginning and gets a digest."""
    name = image.name + ENDING
    if len(name.encode()) > LONGEST_NAME:
        ending = f"-{hashlib.sha256(image.name.encode()).hexdigest()[:16]}{ENDING}"
        name = name.encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore") + ending
    return image.with_name(name)


def _render(image: ImageRow, study: Study, drawing: Drawing) -> bytes:
    from xray.images.preprocessing import Preprocessing
    from xray.network.heatmap import render_heat_map, scale_note

    package, cam = find_package(study, drawing.settings), cam_of(image)
    label = package.card.worded(Label(image.label)) if image.label else study.row.status
    scale, positive = package.card.heat_map_scale, image.label == Label.POSITIVE
    note = scale_note(cam, scale, positive=positive, own_scale=drawing.own_scale)
    drawn = render_heat_map(
        read_gray(image, drawing.roots),
        cam,
        preprocessing=Preprocessing.from_id(package.card.preprocessing),
        scale=scale,
        own_scale=drawing.own_scale,
        caption=[
            image.image,
            f"{label}, probability {image.probability:.3f} ({study.row.model}, run {study.row.run})",
            *([note] if note else []),
            RESEARCH_NOTICE,
        ],
    )
    file = BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()
