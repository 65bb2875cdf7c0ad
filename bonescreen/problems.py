"""Problems that stop unfinished runs, and what to do about them: gather the facts, then decide."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

from bonescreen.context import roots_here
from bonescreen.terminal import count
from db.heartbeats import Heartbeat, list_heartbeats
from db.queries import count_failures
from db.run_queries import AT_AN_END, RunSummary
from db.scans import open_scans
from db.session import Database
from xray.settings import Settings
from xray.vocabulary import Reason

PING_SECONDS = 3.0


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, what to do about it, and whether it stops an unfinished run."""

    problem: str
    remedy: str
    hinders: bool = True


@dataclass(frozen=True)
class Facts:
    """The facts that `problems` decides from.

    Parameters
    ----------
    runs : sequence of RunSummary
        The runs to report on.
    failures : mapping of int to mapping of str to int
        Each run's failed images by reason.
    processes : sequence of Heartbeat
        The processes that reported within the last hour.
    scans : mapping of int to bool
        Runs with an unfinished scan, and whether a process still works on it.
    embedded : bool
        Whether the broker is the embedded one.
    broker : str or None
        Why the broker does not answer, None when it does.
    archives : mapping of str to str
        What is wrong with archives' roots on this host, by name.
    database : str or None
        Why the database cannot be written, None when it can.
    """

    runs: Sequence[RunSummary]
    failures: Mapping[int, Mapping[str, int]]
    processes: Sequence[Heartbeat]
    scans: Mapping[int, bool]
    embedded: bool
    broker: str | None
    archives: Mapping[str, str]
    database: str | None

    @property
    def open_runs(self) -> list[RunSummary]:
        """The runs that are not finished."""
        return [run for run in self.runs if is_open(run)]

    def alive(self, role: str) -> list[Heartbeat]:
        """List the processes of a role that are alive."""
        return [process for process in self.processes if process.alive and process.role == role]


def is_open(run: RunSummary) -> bool:
    """Tell whether a run still has something to do."""
    return run.state not in AT_AN_END


def gather(settings: Settings, database: Database, runs: Sequence[RunSummary]) -> Facts:
    """Gather the facts from the database, the broker and the archives."""
    roots = roots_here(settings, database)
    names = {run.archive for run in runs if is_open(run)} & roots.keys()
    faults = {name: fault for name in sorted(names) if (fault := _root_fault(roots[name])) is not None}
    return Facts(
        runs=runs,
        failures={run.run: count_failures(database, run.run) for run in runs},
        processes=list_heartbeats(database),
        scans={scan.run_id: not scan.expired for scan in open_scans(database)},
        embedded=settings.broker_url is None,
        broker=_embedded_broker_fault(settings) if settings.broker_url is None else broker_fault(settings.broker_url),
        archives=faults,
        database=database.write_fault(),
    )


def problems(facts: Facts) -> list[Problem]:
    """List the problems, causes before their consequences."""
    found = [
        Problem(f"The archive {name} {fault}.", "Mount or connect it again; the run then continues by itself.")
        for name, fault in facts.archives.items()
    ]
    if facts.database is not None:
        text = f"The database cannot be written: {facts.database}."
        remedy = "Find the process that locks it, or free space on its disk. Finished results are saved."
        found.append(Problem(text, remedy, hinders=bool(facts.open_runs)))
    if facts.broker is not None and not facts.embedded:
        remedy = "Start the broker, or correct BONESCREEN_BROKER_URL. Finished results are saved."
        found.append(Problem(facts.broker, remedy, hinders=bool(facts.open_runs)))
    found += _process_problems(facts)
    for run in facts.runs:
        if quarantined := facts.failures[run.run].get(Reason.QUARANTINED, 0):
            text = f"Run {run.run} has quarantined {count(quarantined, 'image')}, on which workers died three times."
            remedy = f"The others are screened. List the quarantined ones with: bonescreen failures {run.run}"
            found.append(Problem(text, remedy, hinders=False))
    return found


def _process_problems(facts: Facts) -> list[Problem]:
    if not facts.open_runs:
        return []
    if facts.embedded and facts.broker is not None and not any(process.alive for process in facts.processes):
        idle = [run for run in facts.open_runs if not facts.scans.get(run.run, False)]
        return [
            Problem(
                f"Run {run.run} is not finished, and no `bonescreen screen` is running here.",
                f"Run: bonescreen screen {quote(run.root)}",
            )
            for run in idle
        ]
    found = [
        Problem(
            f"The {process.role} {process.name} waits: {process.problem}", "Once that is fixed, it continues by itself."
        )
        for process in facts.processes
        if process.alive and process.problem
    ]
    start = "It should start within a minute; if not, see the logs folder in BONESCREEN_HOME."
    if not facts.alive("feeder"):
        found.append(
            Problem(
                "No feeder is running, so workers get no work.", start if facts.embedded else "Run: bonescreen feed"
            )
        )
    queues = {process.queue for process in facts.alive("worker")}
    for run in facts.open_runs:
        if run.open_batches and run.queue not in queues:
            text = (
                f"No worker for {run.model} is running, and run {run.run} has {count(run.open_batches, 'batch')} to do."
            )
            found.append(Problem(text, start if facts.embedded else "Run on a worker machine: bonescreen worker"))
    return found


def _root_fault(root: Path) -> str | None:
    try:
        if not root.exists():
            return f"is missing on this host ({root})"
        if root.is_dir():
            with os.scandir(root) as entries:
                if next(entries, None) is None:
                    return f"is empty on this host ({root}): is it mounted?"
    except OSError as error:
        return f"cannot be read on this host ({root}): {error.strerror}"
    return None


def _embedded_broker_fault(settings: Settings) -> str | None:
    from bonescreen.broker import answers, broker_socket

    return None if answers(broker_socket(settings)) else "The embedded broker is not running."


def broker_fault(url: str) -> str | None:
    """Say why a broker does not answer, without its password; None when it does."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # Celery and redis-py have different URL schemes for a Unix socket.
    address = url.replace("redis+socket://", "unix://", 1)
    try:
        client = redis.Redis.from_url(
            address, socket_timeout=PING_SECONDS, socket_connect_timeout=PING_SECONDS, retry=Retry(NoBackoff(), 0)
        )
        with client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        return f"The broker {_without_password(url)} does not answer: {' '.join(str(error).split())}"
    return None


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
