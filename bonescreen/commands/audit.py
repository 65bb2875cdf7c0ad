"""Doctor: a check-up of labelled data before hours of training are spent on them."""

import importlib.util
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import track

from bonescreen.commands.runs import Json
from bonescreen.context import settings_here
from bonescreen.progress import LINE_SECONDS
from bonescreen.terminal import print_line, print_notice, print_table, print_to, write_json
from xray.errors import UsageError
from xray.vocabulary import RESEARCH_NOTICE

NEEDED = {"sklearn": "scikit-learn", "imagehash": "imagehash", "matplotlib": "matplotlib", "jinja2": "jinja2"}
Read = TypeVar("Read")


def audit(
    data: Annotated[
        Path, typer.Argument(metavar="DIR", help="Labelled radiographs: MURA, FracAtlas, or with a manifest.csv.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the report; made if missing.")
    ],
    body_part: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Look at this body part only, repeatable; all by default.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV image,group: what belongs together, too.")
    ] = None,
    split: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV group,role: the split to look at, as training writes it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check labelled data before training: unreadable files, copies, conflicting labels, balance, inverted films.

    Writes a page with pictures, the same as JSON, and groups.csv, which keeps copies of a film on one side of a split.
    What it finds does not change the exit code.

    Example: bonescreen audit fracatlas -o checked
    """
    missing = [package for name, package in NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"audit needs {' and '.join(missing)}: pip install 'bonescreen[tensorflow]'")
    from training.audit.examination import examine
    from training.audit.report import PAGE, AuditReport
    from training.audit.survey import survey
    from training.data.read_dataset import read_dataset

    whole = read_dataset(data, groups=groups, pseudonym_key=settings_here().pseudonym_key)
    dataset = whole.of_body_parts([part.upper() for part in body_part or ()])
    # Before the files are read, which takes long.
    output.mkdir(parents=True, exist_ok=True)
    report = AuditReport.of(examine(dataset, _told(survey(dataset), len(dataset)), split), whole)
    report.write(output)
    record = report.record()
    if as_json:
        write_json(record)
        return
    found = record["data"]
    readable = f"{found['readable']:,} of {found['images']:,} images readable"
    print_line(f"{found['name']}: {readable}, {found['positives']:,} positive")
    if report.findings:
        print_line("")
        print_table(("severity", " how many", "finding"), [(f.severity, f.counted, f.title) for f in report.findings])
        print_line("")
    print_line(record["verdict"], "bold")
    print_line(f"The report with pictures: {output / PAGE}")
    print_notice(f"{RESEARCH_NOTICE} The report shows films and names: keep it where the data may lie.")


def _told(files: Iterable[Read], total: int) -> Iterator[Read]:
    """Hand on what is read; show how far it is as a bar on a terminal, and else as a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(files, "Reading", total, console=console, transient=True)
        return
    last = time.monotonic()
    for done, file in enumerate(files, start=1):
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print_to(console, f"Reading {done:,}/{total:,}")
        yield file
