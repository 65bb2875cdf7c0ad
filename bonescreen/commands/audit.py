"""Audit: check labelled data before hours of training are spent on them."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import track

from bonescreen.commands.arguments import Json
from bonescreen.context import require_packages, settings_here
from bonescreen.progress import LINE_SECONDS
from bonescreen.terminal import print_line, print_notice, print_table, print_to, write_json
from xray.vocabulary import RESEARCH_NOTICE, count

T = TypeVar("T")


def audit(
    data: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Labelled radiographs: FracAtlas, MURA, or a folder with a manifest.csv."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for report.html, report.json and groups.csv.")
    ],
    body_part: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Only images of this body part, repeatable.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV file (columns image,group): images that belong together.")
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV file (columns group,role) with the split to check, such as a package's split.csv.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check labelled data before training: unreadable files, duplicates, conflicting labels, balance, inverted images.

    Writes an HTML report, the same data as JSON, and groups.csv, which keeps duplicates in the same part of a split.
    Problems do not affect the exit code.

    Example: bonescreen audit fracatlas -o checked
    """
    require_packages("audit", "sklearn", "imagehash", "matplotlib", "jinja2")
    from training.audit.audited_dataset import audit_dataset
    from training.audit.read_images import read_images
    from training.audit.report import PAGE_FILE, AuditReport
    from training.data.read_dataset import read_dataset
    from training.disk import make_folder

    whole = read_dataset(data, groups=groups, pseudonym_key=settings_here().pseudonym_key)
    dataset = whole.of_body_parts([part.upper() for part in body_part or ()])
    # Before the files are read, which takes long.
    make_folder(output)
    report = AuditReport.of(audit_dataset(dataset, _with_progress(read_images(dataset), len(dataset)), split), whole)
    report.write(output)
    numbers = report.to_dict()
    if as_json:
        write_json(numbers)
        return
    counts = numbers["data"]
    print_line(
        f"{counts['name']}: {counts['readable']:,} of {count(counts['images'], 'image')} readable, "
        f"{counts['positives']:,} positive"
    )
    if report.problems:
        print_line("")
        rows = [(problem.severity, problem.count_text, problem.title) for problem in report.problems]
        print_table(("severity", " how many", "problem"), rows)
    print_line("")
    print_line(numbers["conclusion"], "bold")
    print_line(f"The report with pictures: {output / PAGE_FILE}")
    print_notice(RESEARCH_NOTICE)
    print_notice("The report shows radiographs and file names: store it where you store the data.")


def _with_progress(files: Iterable[T], total: int) -> Iterator[T]:
    """Yield what is read, with a progress bar on a terminal, and else a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(files, "Reading", total, console=console, transient=True)
        return
    last = time.monotonic()
    for done, file in enumerate(files, start=1):
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print_to(console, f"Reading: {done:,} of {total:,}")
        yield file
