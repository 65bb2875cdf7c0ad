"""Progress of a training run on the terminal, and loading Keras without its log output."""

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
    """Lines and progress bars on standard output, which may be a file."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout)

    def say(self, text: str) -> None:
        """Print one line without markup or folding."""
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Show a progress bar during the block, on a terminal only; yields a function to call with the steps done."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bars:
            task = bars.add_task(title, total=total, completed=done)
            yield lambda steps: bars.advance(task, steps)


def load_backend() -> None:
    """Import Keras and its backend, and have the backend find GPUs.

    Call it before anything imports Keras. What the libraries write to standard error is shown only if loading fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _hide_stderr():
        from xray.network.keras_engine import prepare_backend

        prepare_backend()
    # TensorFlow warns of retracing because a run compiles several models, which is intended.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextmanager
def _hide_stderr() -> Iterator[None]:
    """Redirect standard error, also of native libraries, and show it only if the block fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(stderr, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
