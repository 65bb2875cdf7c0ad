"""Progress of a run: a bar on a terminal, a line now and then in a log file."""

from types import TracebackType

from rich.console import Console

from bonescreen.terminal import print_to
from db.heartbeats import Activity
from db.run_queries import Progress
from training.progress import Bar

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal: a person waits for a run, but not for a training."""

WAITING = "waiting"


class RunProgress:
    """Shows a run's progress until it is finished.

    Parameters
    ----------
    console : Console
        A terminal gets a bar; anything else a line every `LINE_SECONDS`.
    archive : str or None
        The archive's name, where there are several.
    """

    def __init__(self, console: Console, archive: str | None = None) -> None:
        self._console = console
        title = f"Screening {archive}" if archive else "Screening"
        self._bar = Bar(console, title, 0, line_seconds=LINE_SECONDS, transient=False)
        self._note: str | None = None
        self._processed_before: int | None = None
        self._moved = False
        self._problem: str | None = None

    def __enter__(self) -> "RunProgress":
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def update(self, now: Progress, activity: str, problem: str | None) -> None:
        """Show how far a run is, and what its workers do or wait for while nothing moves."""
        still = self._bar.rate is None and activity in (Activity.STARTING, Activity.LOADING)
        still |= activity == Activity.OUTSIDE_HOURS
        note = WAITING if problem else activity if still else ""
        if self._processed_before is None:
            self._processed_before = now.processed
        first = not self._moved and now.processed > self._processed_before
        news = first or note not in (self._note, WAITING, "")
        failed = f"{now.failed:,} failed" if now.failed else ""
        self._bar.update(now.processed, now.images, note=note, extra=failed, line=news)
        self._note, self._moved = note, self._moved or first
        self.problem(problem)

    def problem(self, problem: str | None) -> None:
        """Print a problem once, and once that the work continues."""
        if problem:
            self._bar.wait(WAITING)
        if problem != self._problem:
            print_to(self._console, f"waiting: {problem}" if problem else "continuing")
            self._problem = problem
