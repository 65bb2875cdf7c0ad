"""Many screenings with faults, several at once, until enough faults were injected and enough outcomes stored."""

import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.broker import TcpBroker, free_port
from tests.chaos.faults import FAULTS, Fault, deck, inject
from tests.chaos.screening import Cluster, Kind, NotInjectedError, OneMachine, OverdueError, Screening, draw_pool
from tests.chaos.verdict import Predicted, Violation, read_predictions, violations
from tests.conftest import postgres_server
from tests.faults.own_postgres import OwnPostgres
from tests.tiny import write_tiny_package

MakeScreening = Callable[[Path, str], Screening]
"""Makes a screening in a folder, from a seed."""

FAULTS_PER_RUN = 8

IMAGES = 400
"""In each archive: on slow storage, about half a minute of work, and as much again while faults are recovered from."""


@dataclass(frozen=True)
class Injection:
    """A fault that was injected: where, and the seconds until work went on and until `status` named its cause."""

    fault: Fault
    kind: Kind
    run: int
    recovered: float | None
    named: float | None


@dataclass
class RunReport:
    """One run with its faults.

    Parameters
    ----------
    number : int
        Names its folder and, with the seed, its faults.
    outcomes : int
        Images that were screened.
    quarantined : int
        Images that three workers were lost on, screened by `retry` at the end.
    """

    number: int
    kind: Kind
    folder: Path
    injections: list[Injection] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    outcomes: int = 0
    quarantined: int = 0


class Campaign:
    """Makes runs of both kinds until `enough` says so, and keeps what they report.

    Parameters
    ----------
    folder : Path
        For the runs' folders; those of runs with a violation are kept.
    seed : int
        Decides on the faults of each run and when they are injected.
    chosen : sequence of Fault
    say : callable
        Called with a line for people.
    images : int
        In each archive.
    package : Path, optional
        The model package; by default a tiny one that is written first.
    faults_per_run : int
        At most; a run may end before.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        chosen: Sequence[Fault] = FAULTS,
        say: Callable[[str], object] = print,
        images: int = IMAGES,
        package: Path | None = None,
        faults_per_run: int = FAULTS_PER_RUN,
    ) -> None:
        self.folder, self.seed, self.say = folder, seed, say
        self._faults_per_run = faults_per_run
        self.reports: list[RunReport] = []
        self._decks = {kind: deck(kind, seed, chosen) for kind in Kind}
        self._numbers = dict.fromkeys(Kind, 0)
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self.package = package or write_tiny_package(folder / "tiny", graph=True).path
        self.pool = draw_pool(folder / "pool", images)
        self.expected = self._without_faults()

    @property
    def injections(self) -> list[Injection]:
        return [one for report in self.reports for one in report.injections]

    @property
    def outcomes(self) -> int:
        return sum(report.outcomes for report in self.reports)

    def run(self, stacks: int, enough: Callable[["Campaign"], bool]) -> None:
        """Make runs, on several stacks at once: half of them on clusters, if there are faults for those.

        Parameters
        ----------
        stacks : int
            How many at once.
        enough : callable returning bool
            Asked before each run.
        """
        with ExitStack() as end:
            lanes = []
            for lane in range(stacks):
                make: MakeScreening = partial(OneMachine, pool=self.pool, package=self.package)
                kind = Kind.ONE_MACHINE if lane % 2 else Kind.CLUSTER
                if not self._decks[kind]:
                    continue
                if kind is Kind.CLUSTER:
                    server = TcpBroker(self.folder / f"broker-{lane}", free_port())
                    runtime = self.folder / f"runtime-{lane}"
                    runtime.mkdir(mode=0o700)
                    postgres = OwnPostgres(end.enter_context(postgres_server(runtime)))
                    make = partial(Cluster, pool=self.pool, package=self.package, server=server, postgres=postgres)
                lanes.append(threading.Thread(target=self._lane, args=(kind, make, enough)))
            for one in lanes:
                one.start()
            for one in lanes:
                one.join()

    def _lane(self, kind: Kind, make: MakeScreening, enough: Callable[["Campaign"], bool]) -> None:
        while not enough(self):
            report, faults = self._next(kind)
            self._play(report, faults, make)
            with self._lock:
                self.reports.append(report)

    def _next(self, kind: Kind) -> tuple[RunReport, list[Fault]]:
        """Number a run, odd ones on one machine, and draw its faults."""
        with self._lock:
            turn = self._numbers[kind]
            self._numbers[kind] += 1
        cards = self._decks[kind]
        first = turn * self._faults_per_run
        faults = [cards[card % len(cards)] for card in range(first, first + self._faults_per_run)]
        number = 2 * turn + (kind is Kind.ONE_MACHINE)
        return RunReport(number, kind, self.folder / f"run-{number}"), faults

    def _play(self, report: RunReport, faults: Sequence[Fault], make: MakeScreening) -> None:
        try:
            with closing(make(report.folder, f"{self.seed} {report.number}")) as screening:
                screening.begin(report.number)
                self._inject(screening, report, faults)
                report.violations += [Violation("unnamed", said) for said in screening.unnamed]
                if not any(violation.kind == "unfinished" for violation in report.violations):
                    screening.await_end()
                    report.quarantined = screening.retry_quarantined()
                    report.violations += violations(screening.database, screening.contents, self.expected)
                report.outcomes = screening.processed() or 0
        except OverdueError as error:
            report.violations.append(Violation("unfinished", str(error)))
        except Exception as error:
            report.violations.append(Violation("driver", f"{type(error).__name__}: {error}"))
            report.folder.mkdir(exist_ok=True)
            (report.folder / "traceback.txt").write_text(traceback.format_exc())
        for violation in report.violations:
            self.say(f"run {report.number}: {violation.kind}: {violation.what}\n  kept: {report.folder}")
        if report.violations:
            lines = [f"{one.kind}: {one.what}\n" for one in report.violations]
            lines += [f"{one.fault.name}: {one.recovered}\n" for one in report.injections]
            (report.folder / "violations.txt").write_text("".join(lines))
        else:
            shutil.rmtree(report.folder)

    def _inject(self, screening: Screening, report: RunReport, faults: Sequence[Fault]) -> None:
        for one in faults:
            began = time.monotonic()
            recovered = named = None
            try:
                recovered, named = inject(screening, one)
            except NotInjectedError:
                if screening.is_done():
                    return
                continue
            except OverdueError as error:
                report.violations.append(Violation("unfinished", str(error)))
            report.injections.append(Injection(one, report.kind, report.number, recovered, named))
            took = f"{recovered:.1f} s" if recovered is not None else "not"
            said = f", named after {named:.0f} s" if named is not None else ""
            self.say(
                f"run {report.number} ({report.kind}): {one.name}: recovered {took}{said}, "
                f"{time.monotonic() - began:.0f} s in all"
            )
            if recovered is None:
                return

    def _without_faults(self) -> dict[bytes, Predicted]:
        """Screen the pool without faults, for what to expect."""
        with closing(OneMachine(self.folder / "without-faults", "", self.pool, self.package)) as screening:
            screening.start()
            screening.await_end()
            return read_predictions(screening.database)


@contextmanager
def closing(screening: Screening) -> Iterator[Screening]:
    """Close a screening at the end of the block."""
    try:
        yield screening
    finally:
        screening.close()
