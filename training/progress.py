"""Progress of long work, on a terminal and in a log file; and loading Keras without its log output."""

import logging
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from xray.printable import escape_unprintable
from xray.vocabulary import count

WINDOW_SECONDS = 15.0
"""The time over which a rate is averaged."""

LEAST_GAP_SECONDS = 0.2
"""Counts that are closer in time make one sample of a rate, so that fast steps do not fill the memory."""

LINE_SECONDS = 30.0
"""How often a line is written where there is no terminal."""

REDRAWS_PER_SECOND = 4.0

SHORTEST_BAR, SHORTEST_TITLE = 8, 16
"""Columns; a bar that would be shorter is left out, a title is cut to no less."""

GAP = "  "

ECHO = "^C "
"""Room for what a terminal shows at Ctrl-C: behind a full line it would begin a new one, and the bar stay twice."""


class Rate:
    """Steps a second over the last `WINDOW_SECONDS`.

    Steps may be counted in bursts: only the times at which the count changes are used.

    Attributes
    ----------
    per_second : float or None
        The rate; None while it is not known, or nothing moves.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        # Stored, not computed from the samples on demand: the thread that draws reads it meanwhile.
        self.per_second: float | None = None

    def add(self, now: float, done: int) -> None:
        """Note how many steps are done at a time (seconds)."""
        samples = self._samples
        if len(samples) > 1:
            # A burst may take longer than the window: nothing moves only if the gap is much longer than the one before.
            gap = samples[-1][0] - samples[-2][0]
            if now - samples[-1][0] > max(WINDOW_SECONDS, 2 * gap):
                samples.clear()
            elif gap < LEAST_GAP_SECONDS and done != samples[-1][1]:
                samples.pop()
        if not samples or done != samples[-1][1]:
            samples.append((now, done))
        while len(samples) > 2 and now - samples[0][0] > WINDOW_SECONDS:
            samples.popleft()
        (start, before), (end, after) = samples[0], samples[-1]
        self.per_second = (after - before) / (end - start) if end > start else None

    def restart(self) -> None:
        """Forget what was counted before: the work stood still, or had not begun."""
        self._samples.clear()
        self.per_second = None


class Bar:
    """How far a piece of work is: a bar that is redrawn on a terminal, elsewhere a line now and then.

    Parameters
    ----------
    console : Console
        Where to show it.
    title : str
        What is done, such as ``reading images``.
    total : int
        Number of steps.
    done : int
        Steps that were done before.
    unit : str
        What a step is called: ``image``.
    line_seconds : float
        Time between two lines where there is no terminal.
    transient : bool
        Whether the bar vanishes at the end.
    clock : callable
        Monotonic time in seconds.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        total: int,
        *,
        done: int = 0,
        unit: str = "image",
        line_seconds: float = LINE_SECONDS,
        transient: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._title, self._unit, self._line_seconds = console, title, unit, line_seconds
        self._total, self._done, self._note, self._extra = total, done, "", ""
        self._clock = clock
        self._started = self._last_line = clock()
        self._printed: int | None = None
        self._rate = Rate()
        self._rate.add(self._started, done)
        self._live = (
            Live(self, console=console, refresh_per_second=REDRAWS_PER_SECOND, transient=transient)
            if console.is_interactive
            else None
        )

    def __enter__(self) -> "Bar":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif kind is None and self._printed not in (None, self._done):
            # Whoever follows the log of long work also sees its end.
            self._print_line()

    @property
    def rate(self) -> float | None:
        """Steps a second, or None while it is not known."""
        return self._rate.per_second

    def advance(self, steps: int) -> None:
        """Count steps that are done."""
        self.update(self._done + steps)

    def update(
        self, done: int, total: int | None = None, *, note: str = "", extra: str = "", line: bool = False
    ) -> None:
        """Say how many steps are done.

        Parameters
        ----------
        done : int
            All that are done, those before included.
        total : int, optional
            Number of steps, where it has changed.
        note : str
            Why nothing moves, such as ``loading the model``; shown in place of the rate, which begins anew after it.
        extra : str
            What else to show, such as ``3 failed``.
        line : bool
            Write a line now where there is no terminal: this is news.
        """
        now = self._clock()
        self._done, self._note, self._extra = done, note, extra
        self._total = self._total if total is None else total
        if note:
            self._rate.restart()
        else:
            self._rate.add(now, done)
        if self._live is None and (line or now - self._last_line >= self._line_seconds):
            self._print_line()

    def wait(self, note: str) -> None:
        """Say why nothing moves, as `update` does."""
        self._note = note
        self._rate.restart()

    def _print_line(self) -> None:
        self._last_line, self._printed = self._clock(), self._done
        percent = f" ({100 * self._done // self._total} %)" if self._total else ""
        done = f"{self._title}: {self._done:,} of {count(self._total, self._unit)}{percent}"
        self._console.print(Text(", ".join((done, *self._facts()))), soft_wrap=True)
        self._console.file.flush()

    def _facts(self) -> list[str]:
        """Return rate, time left and time passed, the most important first."""
        facts = [self._note] if self._note else []
        if rate := self.rate:
            several = count(2, self._unit).removeprefix("2 ")
            facts.append(f"{rate:.1f} {several}/s" if rate >= 0.1 else f"{1 / rate:.0f} s/{self._unit}")
            if self._done < self._total:
                facts.append(f"{clock_text((self._total - self._done) / rate)} left")
        facts.append(f"{clock_text(self._clock() - self._started)} elapsed")
        return [*facts, self._extra] if self._extra else facts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw one line that fits the terminal: what does not fit is left out, the least important first."""
        facts = [f"{self._done:,}/{self._total:,}", *self._facts()]
        room = options.max_width - len(GAP) - len(ECHO)
        while len(facts) > 1 and cell_len(GAP.join(facts)) > room - min(SHORTEST_TITLE, cell_len(self._title)):
            facts.pop()
        text = GAP.join(facts)
        room -= cell_len(text)
        title = Text(self._title, end="")
        title.truncate(max(room - len(GAP) - SHORTEST_BAR, min(room, SHORTEST_TITLE)), overflow="ellipsis")
        yield title
        width = room - title.cell_len - len(GAP)
        if width >= SHORTEST_BAR:
            yield Text(GAP, end="")
            yield ProgressBar(max(self._total, 1), self._done, width=width)
        yield Text(GAP + text, no_wrap=True, overflow="crop")


def clock_text(seconds: float) -> str:
    """Write a duration as a clock shows it: ``0:07``, ``12:30``, ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Lines and progress bars of long work.

    Parameters
    ----------
    file : file, optional
        Where to; by default standard output. It may be a terminal or not.
    clock : callable
        Monotonic time in seconds.
    """

    def __init__(self, file: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(file=file or sys.stdout)
        self._clock = clock

    def say(self, text: str) -> None:
        """Print one line without markup or folding."""
        self._console.print(Text(escape_unprintable(text)), soft_wrap=True)
        self._console.file.flush()

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0, unit: str = "image") -> Iterator[Callable[[int], None]]:
        """Show during the block how far some work is; yields a function to call with the number of steps done.

        On a terminal it is a bar; elsewhere, a line every `LINE_SECONDS`.
        """
        with Bar(self._console, title, total, done=done, unit=unit, clock=self._clock) as bar:
            yield bar.advance


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
