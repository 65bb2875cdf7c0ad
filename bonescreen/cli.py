"""``bonescreen``: the commands in their groups, and the one place where errors become exit codes."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from bonescreen.command_group import CommandGroup, PlainCommand, usage_error_text
from bonescreen.commands import (
    audit,
    bench,
    cluster,
    database,
    evaluate,
    export_deidentified,
    export_dicom,
    failures,
    forget,
    heatmap,
    layers,
    metrics,
    models,
    report,
    results,
    review,
    runs,
    screen,
    serve,
    status,
    study,
    train,
    users,
)
from bonescreen.terminal import print_error
from xray.errors import BonescreenError, PackageError, UsageError
from xray.vocabulary import RESEARCH_NOTICE

export = typer.Typer(cls=CommandGroup, help="Write studies for others: results as DICOM, or images de-identified.")
export.command("deidentified", cls=PlainCommand)(export_deidentified.deidentified)
export.command("dicom", cls=PlainCommand)(export_dicom.export_dicom)

GROUPS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Screen": {
        "screen": screen.screen,
        "status": status.status,
        "runs": runs.runs,
        "resume": runs.resume,
        "cancel": runs.cancel,
        "retry": runs.retry,
    },
    "Results": {
        "results": results.results,
        "study": study.study,
        "heatmap": heatmap.heatmap,
        "failures": failures.failures,
        "report": report.report,
        "export": export,
        "review": review.app,
    },
    "Web pages": {
        "serve": serve.serve,
        "users": users.app,
    },
    "Models and training": {
        "models": models.app,
        "audit": audit.audit,
        "train": train.train,
        "evaluate": evaluate.evaluate,
        "layers": layers.layers,
    },
    "Cluster": {
        "enqueue": cluster.enqueue,
        "worker": cluster.worker,
        "feed": cluster.feed,
        "flower": cluster.flower,
    },
    "Maintenance": {
        "health": cluster.health,
        "metrics": metrics.metrics,
        "bench": bench.bench,
        "db": database.app,
        "forget": forget.forget,
    },
}
"""The commands under the headings that ``--help`` lists them by."""

# No rich markup: it would interpret [brackets] in paths and texts.
app = typer.Typer(
    name="bonescreen",
    cls=CommandGroup,
    help=f"Screen X-ray archives for bone fractures. {RESEARCH_NOTICE}",
    epilog="Start here: bonescreen screen FOLDER. For help on a command, run: bonescreen COMMAND --help",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for heading, commands in GROUPS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=heading)
        else:
            app.command(name, cls=PlainCommand, rich_help_panel=heading)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bonescreen {version('bonescreen')}")
        raise typer.Exit


@app.callback()
def _bonescreen(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code: 0; 1, an outage; 2, wrong usage; 3, a part unseen; 130, interrupted."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name may hold what the terminal's encoding cannot write.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            code = app(arguments, prog_name="bonescreen", standalone_mode=False)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter's own flush at exit would report it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except typer.TyperException as error:
        print_error(usage_error_text(error))
        sys.exit(2)
    except (BonescreenError, OSError) as error:
        print_error(_text_of(error))
        # A wrong setting of a service is an outage to what runs, such as a worker, and wrong usage to who reads this.
        wrong = isinstance(error, UsageError | PackageError) or isinstance(error.__cause__, UsageError)
        sys.exit(2 if wrong else 1)
    sys.exit(code)


def _open_closed_streams() -> None:
    # A closed stream (`>&-`) is None, and the next file that is opened (the database, a pipe) would get its descriptor.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _text_of(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
