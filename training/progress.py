"""How far a training run is: lines that stay, and on a terminal a bar that moves."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text


class Progress:
    """Where a run says what it does: standard output, which a file may be."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout)

    def say(self, text: str) -> None:
        """Print one line, as it is."""
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Show a bar while the block runs; call what it gives with the steps made. Nothing moves but on a terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bars:
            task = bars.add_task(what, total=total, completed=done)
            yield lambda steps: bars.advance(task, steps)


def load_backend() -> None:
    """Import Keras and its backend, and have the backend look for GPUs.

    To be called before anything imports Keras; what is written meanwhile is shown only if it fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _held_back():
        from xray.network.keras_engine import prepare_backend

        prepare_backend()
    # It warns of each model that is compiled, as if they were one.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextmanager
def _held_back() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            written.seek(0)
            os.write(kept, written.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
