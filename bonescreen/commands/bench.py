"""``bonescreen bench``: how fast this machine screens, beside other ways and part by part."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bonescreen.bench.options import DATABASE_IMAGES, SCREENED_IMAGES, Options, Part
from bonescreen.context import settings_here
from bonescreen.terminal import print_line, print_table, print_wrapped
from xray.errors import UsageError


def bench(
    only: Annotated[
        list[Part] | None, typer.Option(metavar="PART", help=f"Measure this part only, repeatable: {', '.join(Part)}.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often the settings take turns.")] = 5,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of radiographs to screen, JPEG or PNG. Default: examples."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=100, max=100_000_000, help="Size of the archive and the database that are measured.")
    ] = DATABASE_IMAGES,
    screened: Annotated[
        int, typer.Option(min=2, max=100_000, help="How many images are screened in a round.")
    ] = SCREENED_IMAGES,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="A PostgreSQL server, measured in a database that is made for it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers to this file.")
    ] = None,
) -> None:
    """Measure how fast this machine screens, beside other ways and part by part.

    Settings take turns in rounds. Shown are the median over the rounds and, in brackets, the range. A ratio is that of
    two settings in the same round. What you screened before is not touched. Ways that use TensorFlow need the
    tensorflow extra. Run it on a machine that does nothing else; all of it takes about ten minutes.

    Example: bonescreen bench --only engine --only end-to-end --json bench.json
    """
    if data is not None and not data.is_dir():
        raise UsageError(f"--data {data} is not a folder")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"--json {output}: there is no folder {output.absolute().parent}")
    if database is not None and not database.startswith(("postgresql://", "postgresql+psycopg://")):
        raise UsageError("--database is not the URL of a PostgreSQL server, such as postgresql://user@host/name")
    from bonescreen.bench.parts import run_benchmark
    from bonescreen.bench.report import sections
    from xray.network.package import load_package

    package = load_package(settings_here().model)
    options = Options(package, only or list(Part), rounds, data, images, screened, database)
    console = Console(stderr=True)
    with console.status("") as status:
        report = run_benchmark(options, lambda text: status.update(Text(f"{text} ...")))
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + "\n")
    for section in sections(report):
        print_line("")
        print_line(section.title, "bold")
        print_table(section.titles, section.rows)
        for note in section.notes:
            print_wrapped("", note)
