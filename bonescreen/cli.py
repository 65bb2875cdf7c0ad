"""``bonescreen``: the commands, and the one place where errors become exit codes."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from bonescreen.commands import (
    audit,
    cluster,
    database,
    evaluate,
    failures,
    heatmap,
    layers,
    models,
    results,
    runs,
    screen,
    status,
    study,
    train,
)
from xray.errors import BonescreenError, PackageError, UsageError
from xray.vocabulary import RESEARCH_NOTICE

COMMANDS: dict[str, Callable[..., None]] = {
    "screen": screen.screen,
    "enqueue": cluster.enqueue,
    "worker": cluster.worker,
    "feed": cluster.feed,
    "runs": runs.runs,
    "status": status.status,
    "health": cluster.health,
    "resume": runs.resume,
    "cancel": runs.cancel,
    "retry": runs.retry,
    "results": results.results,
    "study": study.study,
    "heatmap": heatmap.heatmap,
    "failures": failures.failures,
    "flower": cluster.flower,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "audit": audit.audit,
    "layers": layers.layers,
}

# No rich markup: it would take [brackets] in paths and texts for its own.
app = typer.Typer(
    name="bonescreen",
    help=f"Screen X-ray archives for bone fractures. {RESEARCH_NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(models.app)
app.add_typer(database.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bonescreen {version('bonescreen')}")
        raise typer.Exit


@app.callback()
def _bonescreen(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code: 0, 1 (something hinders), 2 (asked wrongly), 130 (interrupted)."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name may hold what the terminal's encoding cannot write.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter's own flush at exit would complain of it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (BonescreenError, OSError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError | PackageError) else 1)


def _open_closed_streams() -> None:
    # A closed stream (`>&-`) is None, and its descriptor would go to what is opened next: the database, or a pipe.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _one_line(error: Exception) -> str:
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    return " ".join(text.split())
