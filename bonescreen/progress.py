"""Progress of a run: a bar on a terminal, a line now and then in a log file."""

import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
from rich.progress import Progress as Bar

from bonescreen.terminal import print_to
from db.run_queries import Progress
from xray.vocabulary import count

WINDOW_SECONDS = 60.0
"""The time over which the speed is averaged."""

LINE_SECONDS = 10.0


class Speed:
    """Images a second over the last `WINDOW_SECONDS`, from the first finished batch on; None while nothing moves."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, processed: int) -> None:
        """Note how many images are processed at a time (seconds)."""
        if len(self._samples) > 1:
            # A batch may take longer than the window: nothing moves only if the gap is much longer than the one before.
            gap = self._samples[-1][0] - self._samples[-2][0]
            if now - self._samples[-1][0] > max(WINDOW_SECONDS, 2 * gap):
                self._samples.clear()
        if not self._samples or processed != self._samples[-1][1]:
            self._samples.append((now, processed))
        while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def images_per_second(self) -> float | None:
        """The speed, or None while it is not known."""
        if len(self._samples) < 2:
            return None
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start) if end > start else None


class RunProgress:
    """Prints a run's progress until it is finished.

    Parameters
    ----------
    console : Console
        A terminal gets a bar; anything else a line every `LINE_SECONDS`.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._speed = Speed()
        self._problem: str | None = None
        self._last_line = time.monotonic()
        self._bar: Bar | None = None
        if console.is_terminal:
            columns: list[ProgressColumn] = [
                TextColumn("Screening"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
            ]
            self._bar = Bar(*columns, console=console)
            self._task = self._bar.add_task("screening", total=None, facts="")

    def __enter__(self) -> "RunProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, now: Progress, problem: str | None) -> None:
        """Print how far a run is, and what it waits for."""
        self._speed.add(time.monotonic(), now.processed)
        facts = progress_text(now, self._speed.images_per_second)
        if self._bar is not None:
            self._bar.update(self._task, total=max(now.images, 1), completed=now.processed, facts=facts)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            done = f"Screening {now.processed:,} of {count(now.images, 'image')}"
            print_to(self._console, f"{done}, {facts}" if facts else done)
        self.problem(problem)

    def problem(self, problem: str | None) -> None:
        """Print a problem once, and once that the work continues."""
        if problem != self._problem:
            print_to(self._console, f"waiting: {problem}" if problem else "continuing")
            self._problem = problem


def progress_text(now: Progress, speed: float | None) -> str:
    """Write speed, time left and failures in a few words."""
    parts = []
    if speed:
        left = (now.images - now.processed) / speed
        parts = [f"{speed:.1f} images/s", f"{duration(left)} left"]
    if now.failed:
        parts.append(f"{now.failed:,} failed")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Write a duration as text: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
