"""Heat maps, drawn from the stored class activation map and the original file."""

import hashlib
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from bonescreen.commands.arguments import RunOption, StudyKey
from bonescreen.commands.failures import reason_text
from bonescreen.context import open_ledger, roots_here, settings_here
from bonescreen.pictures import ChangedFile, cam_of, find_package, read_gray
from bonescreen.terminal import print_line, print_notice
from db.queries import ImageRow, Study, find_study
from db.runs import require_run
from xray.errors import FileFault, UsageError
from xray.vocabulary import RESEARCH_NOTICE, Label

if TYPE_CHECKING:
    from xray.network.package import ModelPackage


ENDING = ".heatmap.png"
LONGEST_NAME = 255
"""Bytes of a file's name that Linux file systems take."""


def heatmap(
    study: StudyKey,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the pictures; it is made if missing.")
    ],
    run: RunOption = None,
) -> None:
    """Draw heat maps of a study's images as PNG files.

    They show which areas raised the fracture score; all images share one colour scale, so normal images stay dark.
    Prints the paths of the pictures; DIR mirrors the archive's folder structure. Without --run, the newest run is
    drawn.

    Example: bonescreen heatmap patient00001/study1_positive -o heatmaps
    """
    settings = settings_here()
    with open_ledger(settings) as database:
        if run is not None:
            require_run(database, run)
        found = _chosen(find_study(database, study, run))
        roots = roots_here(settings, database)
    _refuse_inside_archive(output, roots)
    package = find_package(found, settings)
    written = [_draw(image, found, package, roots, output) for image in found.images]
    print_notice(RESEARCH_NOTICE)
    if not all(written):
        raise typer.Exit(1)


def _chosen(found: list[Study]) -> Study:
    places = {image.archive: study.row.run for study in reversed(found) for image in study.images}
    if len(places) > 1:
        where = ", ".join(f"--run {number} ({name})" for name, number in sorted(places.items()))
        raise UsageError(f"{found[0].row.study!r} is in more than one archive; choose one with: {where}")
    return found[0]


def _refuse_inside_archive(output: Path, roots: Mapping[str, Path]) -> None:
    # Unlike Path.resolve, realpath accepts a link to itself.
    folder = Path(os.path.realpath(output))
    for name, root in roots.items():
        if folder.is_relative_to(os.path.realpath(root)):
            raise UsageError(
                f"{output} is in the archive {name}: its next scan would take the pictures for radiographs; "
                "choose a different folder"
            )


def _draw(image: ImageRow, study: Study, package: "ModelPackage", roots: Mapping[str, Path], output: Path) -> bool:
    """Draw one image, or say why not; return False when a heat map could not be drawn."""
    if image.probability is None:
        why = "not screened yet" if image.reason is None else f"no prediction: {reason_text(image.reason)}"
        print_notice(f"{image.image}: {why}")
        return True
    try:
        picture = _render(image, study, package, roots)
    except ChangedFile:
        print_notice(f"{image.image}: the file has changed since it was screened; screen its archive again")
        return False
    except FileFault as fault:
        print_notice(f"{image.image}: cannot be read any more: {reason_text(fault.reason)}")
        return False
    target = output / _target(PurePosixPath(image.image))
    try:
        _write_privately(target, picture)
    except OSError as error:
        print_notice(f"{image.image}: its heat map cannot be written: {error.strerror}")
        return False
    print_line(str(target))
    return True


def _write_privately(target: Path, picture: bytes) -> None:
    """Write a file that only this user may read, in folders made for this user: it shows a patient."""
    for folder in reversed([folder for folder in target.parents if not folder.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
    # One that was there would keep its rights; a link would be followed. On a share, only the owner may change rights.
    target.unlink(missing_ok=True)
    with open(target, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(picture)


def _target(image: PurePosixPath) -> PurePosixPath:
    """Name an image's heat map; a name too long for a file system keeps its beginning and gets a digest."""
    name = image.name + ENDING
    if len(name.encode()) > LONGEST_NAME:
        ending = f"-{hashlib.sha256(image.name.encode()).hexdigest()[:16]}{ENDING}"
        name = name.encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore") + ending
    return image.with_name(name)


def _render(image: ImageRow, study: Study, package: "ModelPackage", roots: Mapping[str, Path]) -> bytes:
    from xray.images.preprocessing import Preprocessing
    from xray.network.heatmap import render_heat_map

    label = package.card.worded(Label(image.label)) if image.label else study.row.status
    drawn = render_heat_map(
        read_gray(image, roots),
        cam_of(image),
        preprocessing=Preprocessing.from_id(package.card.preprocessing),
        scale=package.card.heat_map_scale,
        caption=[
            image.image,
            f"{label}, probability {image.probability:.3f} ({study.row.model}, run {study.row.run})",
            RESEARCH_NOTICE,
        ],
    )
    file = BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()
