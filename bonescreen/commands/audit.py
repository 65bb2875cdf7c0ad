"""Audit: check labelled data before hours of training are spent on them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bonescreen.commands.arguments import Json
from bonescreen.context import require_packages, settings_here
from bonescreen.terminal import print_line, print_notice, print_table, write_json
from xray.vocabulary import RESEARCH_NOTICE, count


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
    from training.progress import Progress

    whole = read_dataset(data, groups=groups, pseudonym_key=settings_here().pseudonym_key)
    dataset = whole.of_body_parts([part.upper() for part in body_part or ()])
    # Before the files are read, which takes long.
    make_folder(output)
    progress, files = Progress(sys.stderr), []
    with progress.bar("reading images", len(dataset)) as advance:
        for file in read_images(dataset):
            files.append(file)
            advance(1)
    report = AuditReport.of(audit_dataset(dataset, files, split, progress), whole)
    print_notice("Writing the report ...")
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
