"""Problems of open runs and what to do about them: read the state of the system, then find problems in it."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

from bonescreen.context import roots_here
from bonescreen.stack import is_home_locked
from db.failures import count_failures, count_repairs
from db.heartbeats import Heartbeat, list_heartbeats
from db.run_queries import FINISHED_STATES, RunSummary, list_runs, run_summary
from db.scans import OpenScan, open_scans
from db.session import Database
from db.write_check import write_fault
from xray.archive_root import Root
from xray.archives.storage_errors import require_root
from xray.dicomweb import DicomWebService
from xray.errors import ArchiveOutage
from xray.settings import Settings
from xray.vocabulary import SKIP_REMEDY, UNSEEN, Reason, SkipReason, count, describe_skipped

PING_SECONDS = 3.0

ANSWER_SECONDS = 5.0
"""How long archives may take to answer."""

READ_ONLY_REMEDY = "Set BONESCREEN_BROKER_URL to the primary server, or promote this one."


@dataclass(frozen=True)
class Problem:
    """One problem, its remedy, and whether it stops an open run."""

    problem: str
    remedy: str
    blocking: bool = True


@dataclass(frozen=True)
class SystemState:
    """The state of the system, in which `find_problems` looks for problems.

    Parameters
    ----------
    runs : sequence of RunSummary
        The runs to report.
    failures, repairs : mapping of int to mapping of str to int
        Each run's failed images by reason, and the images that were read although their files are wrong, by what is.
    processes : sequence of Heartbeat
        The processes with a heartbeat within the last hour.
    scans : mapping of int to OpenScan
        The open scans, by run.
    embedded : bool
        Whether the broker is the embedded one.
    screen_runs : bool
        Whether a `screen` of this home is running; it may scan, or wait for its hours, and have started nothing yet.
    broker : Problem or None
        Why the broker cannot be used; None if it can.
    eviction : str or None
        The policy by which the broker deletes keys when its memory is full; None if it does not, or does not say.
    archives : mapping of str to str
        What is wrong with archives' roots on this host, by archive name.
    database : str or None
        Why the database cannot be written; None if it can.
    """

    runs: Sequence[RunSummary]
    failures: Mapping[int, Mapping[str, int]]
    repairs: Mapping[int, Mapping[str, int]]
    processes: Sequence[Heartbeat]
    scans: Mapping[int, OpenScan]
    embedded: bool
    screen_runs: bool
    broker: Problem | None
    eviction: str | None
    archives: Mapping[str, str]
    database: str | None

    @property
    def open_runs(self) -> list[RunSummary]:
        """The runs that are not finished."""
        return [run for run in self.runs if is_open(run)]

    @property
    def without_screen(self) -> bool:
        """Whether the work of this machine is done by `screen`, and none is running."""
        return self.embedded and not self.screen_runs and not self._begun

    @property
    def _begun(self) -> bool:
        return self.broker is None or any(process.alive for process in self.processes)

    @property
    def begins(self) -> bool:
        """Whether the `screen` that is running has started no process yet."""
        return self.embedded and self.screen_runs and not self._begun

    def alive(self, role: str) -> list[Heartbeat]:
        """List the processes of a role that are alive."""
        return [process for process in self.processes if process.alive and process.role == role]

    def has_worker(self, run: RunSummary) -> bool:
        """Return whether a worker that screens with a run's model version is alive."""
        return any(run.queue in (process.queue or "").split() for process in self.alive("worker"))

    def is_stopped(self, run: RunSummary) -> bool:
        """Return whether nothing works on an open run, and nothing will before somebody starts it."""
        if not is_open(run) or (run.run in self.scans and not self.scans[run.run].expired):
            return False
        return self.without_screen if self.embedded else run.open_batches > 0 and not self.has_worker(run)


def is_open(run: RunSummary) -> bool:
    """Return whether a run is not finished."""
    return run.state not in FINISHED_STATES


def chosen_runs(database: Database, run: int | None) -> list[RunSummary]:
    """Summarise one run; or, by default, all that are not finished, or the newest if there are none."""
    if run is not None:
        return [run_summary(database, run)]
    listed = list_runs(database)
    return [summary for summary in listed if is_open(summary)] or listed[:1]


def read_system_state(settings: Settings, database: Database, runs: Sequence[RunSummary]) -> SystemState:
    """Read the state of runs from the database, and check the broker and the archives."""
    roots = roots_here(settings, database)
    names = {run.archive for run in runs if is_open(run)} & roots.keys()
    url = settings.broker_url
    broker = _embedded_broker_fault(settings) if url is None else broker_fault(url)
    return SystemState(
        runs=runs,
        failures={run.run: count_failures(database, run.run) for run in runs},
        repairs={run.run: count_repairs(database, run.run) for run in runs},
        processes=list_heartbeats(database),
        scans={scan.run_id: scan for scan in open_scans(database)},
        embedded=url is None,
        screen_runs=url is None and is_home_locked(settings),
        broker=broker,
        eviction=_eviction_policy(url) if url is not None and broker is None else None,
        archives=_root_faults({name: roots[name] for name in sorted(names)}),
        database=write_fault(database),
    )


def find_problems(state: SystemState) -> list[Problem]:
    """List the problems, causes before their consequences."""
    found = [
        Problem(
            f"The archive {name} {fault}.",
            "Mount it again, or see that its service answers; the run then continues by itself.",
        )
        for name, fault in state.archives.items()
    ]
    if state.database is not None:
        text = f"The database cannot be written: {state.database}."
        remedy = "Free space on its disk, find the process that locks it, or give this user the right to write to it."
        remedy += " Finished results are saved."
        found.append(Problem(text, remedy, blocking=bool(state.open_runs)))
    if state.broker is not None and not state.embedded:
        found.append(replace(state.broker, blocking=bool(state.open_runs)))
    if state.eviction is not None:
        text = f"When its memory is full, the broker deletes keys that are in use (maxmemory-policy {state.eviction})."
        remedy = "Set its maxmemory-policy to noeviction. Deleted messages are sent again, but Flower may lose workers."
        found.append(Problem(text, remedy, blocking=False))
    found += _process_problems(state)
    for run in state.runs:
        if quarantined := state.failures[run.run].get(Reason.QUARANTINED, 0):
            are = "is" if quarantined == 1 else "are"
            text = f"Run {run.run}: {count(quarantined, 'image')} {are} quarantined after three attempts."
            remedy = (
                f"List the causes with: bonescreen failures {run.run}. Where workers were killed, the kernel's log "
                f"says whether for lack of memory; then give them more, and: bonescreen retry {run.run}"
            )
            found.append(Problem(text, remedy, blocking=False))
        found += _unseen(run)
    return found


def _unseen(run: RunSummary) -> list[Problem]:
    """List what the run's last scan could not look at, by reason."""
    again = f"bonescreen screen {quote(run.root)} names the first of them."
    return [
        Problem(
            f"Run {run.run}: {describe_skipped(reason, number)} could not be looked at.",
            f"{remedy[0].upper()}{remedy[1:]}. {again}",
            blocking=False,
        )
        for reason, number in run.skipped.items()
        if reason in UNSEEN
        for remedy in [SKIP_REMEDY[SkipReason(reason)]]
    ]


def _process_problems(state: SystemState) -> list[Problem]:
    if not state.open_runs or state.begins:
        return []
    if state.without_screen:
        return [
            Problem(
                f"Run {run.run} is stopped, {count(run.images - run.processed, 'image')} left.",
                f"Continue with: bonescreen screen {quote(run.root)}",
            )
            for run in state.open_runs
            if state.is_stopped(run)
        ]
    found = [
        Problem(
            f"The {process.role} {process.name} waits: {process.problem}", "Once that is fixed, it continues by itself."
        )
        for process in state.processes
        if process.alive and process.problem
    ]
    wait_for_start = "It should start within a minute; if not, see the logs folder in BONESCREEN_HOME."
    if not state.alive("feeder"):
        found.append(
            Problem(
                "No feeder is running, so workers get no work.",
                wait_for_start if state.embedded else "Run: bonescreen feed",
            )
        )
    for run in state.open_runs:
        if run.run in state.scans and state.scans[run.run].expired:
            text = f"Run {run.run}: its scan of {run.archive}, by {state.scans[run.run].holder}, has stopped."
            again = f"bonescreen {'screen' if state.embedded else 'enqueue'} {quote(run.root)}"
            found.append(Problem(text, f"A feeder on a host with the archive finishes it, and so does: {again}"))
        if run.open_batches and not state.has_worker(run):
            model, left = f"{run.model} ({run.precision})", count(run.open_batches, "batch")
            text = f"No worker for {model} is running, and run {run.run} has {left} to do."
            found.append(
                Problem(text, wait_for_start if state.embedded else "Run on a worker machine: bonescreen worker")
            )
    return found


def _root_faults(roots: Mapping[str, Root]) -> dict[str, str]:
    """Return what is wrong with archives' roots, by name; those that do not answer soon are said not to."""
    found: dict[str, str | None] = {}
    # In threads, as a dead network mount never answers.
    asked = [
        threading.Thread(target=lambda name=name, root=root: found.update({name: _root_fault(root)}), daemon=True)
        for name, root in roots.items()
    ]
    for thread in asked:
        thread.start()
    deadline = time.monotonic() + ANSWER_SECONDS
    for thread in asked:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = {name: f"does not answer on this host ({root})" for name, root in roots.items() if name not in found}
    return {name: fault for name, fault in {**found, **silent}.items() if fault is not None}


def _root_fault(root: Root) -> str | None:
    if isinstance(root, DicomWebService):
        try:
            require_root(root)
        except ArchiveOutage as outage:
            return f"cannot be read from this host: {outage}"
        return None
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


def _embedded_broker_fault(settings: Settings) -> Problem | None:
    from bonescreen.broker import broker_socket, is_ready

    if is_ready(broker_socket(settings)):
        return None
    return Problem("The embedded broker is not running.", "Start it with: bonescreen screen")


def broker_fault(url: str) -> Problem | None:
    """Return why a broker cannot be used, without its password; None if it can."""
    import redis

    shown = _without_password(url)
    try:
        with _broker_client(url) as client:
            client.ping()
            read_only = _is_read_only(_broker_info(client, "replication"))
    except (redis.RedisError, OSError, ValueError) as error:
        return Problem(
            f"The broker {shown} does not answer: {' '.join(str(error).split())}",
            "Start the broker, or correct BONESCREEN_BROKER_URL. Finished results are saved.",
        )
    if read_only:
        return Problem(f"The broker {shown} is a read-only replica.", f"{READ_ONLY_REMEDY} Finished results are saved.")
    return None


def _is_read_only(replication: Mapping[str, object]) -> bool:
    return replication.get("role") == "slave" and replication.get("slave_read_only", 1) == 1


def _eviction_policy(url: str) -> str | None:
    import redis

    try:
        with _broker_client(url) as client:
            policy = _broker_info(client, "memory").get("maxmemory_policy")
    except (redis.RedisError, OSError):
        return None
    return None if policy in (None, "noeviction") else str(policy)


def _broker_client(url: str) -> Any:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # For Unix sockets, redis-py uses a different scheme than Celery.
    address = url.replace("redis+socket://", "unix://", 1)
    return redis.Redis.from_url(
        address, socket_timeout=PING_SECONDS, socket_connect_timeout=PING_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def _broker_info(client: Any, section: str) -> Mapping[str, object]:
    """Return what a broker says of itself; nothing where its users may not ask."""
    import redis

    try:
        info: Mapping[str, object] = client.info(section)
    except redis.ResponseError:
        return {}
    return info


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
