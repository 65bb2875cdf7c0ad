"""Progress on the terminal: a bar for people, a line now and then for log files."""

import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from bonescreen.terminal import print_to
from db.run_queries import Progress

WINDOW_SECONDS = 60.0
"""Span over which the speed is taken."""

LINE_SECONDS = 10.0


class Speed:
    """Images a second over the last `WINDOW_SECONDS`, from the moment the first batch came back; none at standstill."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, processed: int) -> None:
        """Note how many images are settled at a time (seconds)."""
        if len(self._seen) > 1:
            # Where one batch takes longer than the window, silence up to the next is no standstill.
            gap = self._seen[-1][0] - self._seen[-2][0]
            if now - self._seen[-1][0] > max(WINDOW_SECONDS, 2 * gap):
                self._seen.clear()
        if not self._seen or processed != self._seen[-1][1]:
            self._seen.append((now, processed))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def images_per_second(self) -> float | None:
        """The speed, or None before there is anything to tell."""
        if len(self._seen) < 2:
            return None
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - start) if end > start else None


class RunProgress:
    """What a run shows while it is waited for.

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
                _Facts(),
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
        """Show how far a run is, and what hinders it."""
        self._speed.add(time.monotonic(), now.processed)
        facts = facts_of(now, self._speed.images_per_second)
        if self._bar is not None:
            self._bar.update(self._task, total=max(now.images, 1), completed=now.processed, facts=facts)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            print_to(self._console, f"Screening {now.processed:,}/{now.images:,} {facts}".rstrip())
        self.problem(problem)

    def problem(self, problem: str | None) -> None:
        """Say once what hinders the work, and once that it goes on."""
        if problem != self._problem:
            print_to(self._console, f"waiting: {problem}" if problem else "going on")
            self._problem = problem


def facts_of(now: Progress, speed: float | None) -> str:
    """Write speed, time left and failures in a few words."""
    parts = []
    if speed:
        left = (now.images - now.processed) / speed
        parts = [f"{speed:.1f} images/s", f"{duration(left)} left"]
    if now.failed:
        parts.append(f"{now.failed:,} unreadable")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Write a duration as people read it: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class _Facts(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["facts"])
