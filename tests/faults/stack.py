"""Whole stacks for fault tests: an archive, a broker, a database, and `bonescreen` commands in their own processes."""

import os
import sqlite3
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from sqlalchemy import func, make_url, select, update

from db.run_queries import RunState, list_runs
from db.session import Database, Now
from db.tables import batches, images, outcomes, predictions, scans
from tests.archives import png_of
from tests.awaiting import PATIENCE, await_that
from xray.errors import DatabaseOutage
from xray.vocabulary import OPEN_STATES, BatchState

ARCHIVE = "clinic"
BATCH = 16
MORE_THAN_PREFETCHED = 5 * BATCH
"""More images than are in claimed and prefetched batches, so processing them takes new messages from the broker."""


# -- archive -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Archive:
    """A MURA-like folder of distinct images."""

    root: Path
    images: int

    def path(self, number: int) -> str:
        """One image's path below the root."""
        return f"XR_HUMERUS/patient{number:05}/study1_positive/image1.png"


def write_archive(root: Path, images: int, side: int) -> Archive:
    """Write images of `side` x `side` pixels; with a side of 1600, a batch of 16 takes about half a second."""
    archive = Archive(root, images)
    fill(archive, side)
    return archive


def fill(archive: Archive, side: int, first: int = 0) -> None:
    """Write an archive's images, from a number on."""
    bases = [png_of(_pixels(np.random.default_rng(seed), side), bits=8) for seed in range(4)]
    for number in range(first, archive.images):
        file = archive.root / archive.path(number)
        file.parent.mkdir(parents=True)
        file.write_bytes(_numbered(bases[number % len(bases)], number))


def _pixels(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    return np.kron(rng.integers(0, 256, (8, 8), np.uint8), np.ones((side // 8, side // 8), np.uint8))


def _numbered(png: bytes, number: int) -> bytes:
    """Make a PNG's bytes unique by a text chunk before its end."""
    body = b"tEXt" + f"number\0{number}".encode()
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return png[:-12] + chunk + png[-12:]


# -- ledger ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClaimedBatch:
    """A batch that a worker process has claimed, as the ledger shows it."""

    batch_id: int
    token: int
    pid: int


class Ledger:
    """The database of a stack, and what must be true in it at the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._database = Database(url)

    def close(self) -> None:
        self._database.close()

    def exists(self) -> bool:
        """Return whether the database exists and has a run."""
        path = make_url(self.url).database if self.url.startswith("sqlite") else None
        return (path is None or Path(path).exists()) and self._false_in_outage(lambda: bool(list_runs(self._database)))

    def processed(self) -> int:
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(outcomes)).scalar_one()

    def claimed_batches(self) -> list[ClaimedBatch]:
        """Return the claimed batches, by id."""
        query = select(batches.c.id, batches.c.token, batches.c.worker).where(batches.c.state == BatchState.CLAIMED)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(batches.c.id)).all()
        return [ClaimedBatch(row.id, row.token, int(row.worker.rpartition(":")[2])) for row in rows]

    def is_claimed(self, batch: ClaimedBatch) -> bool:
        """Return whether a batch is still claimed by the same process with the same token."""
        return batch in self.claimed_batches()

    def claim_on(self, image: int) -> ClaimedBatch | None:
        """The claimed batch that an image is in."""
        spans = {batch: self.span(batch.batch_id) for batch in self.claimed_batches()}
        return next((batch for batch, (first, last) in spans.items() if first <= image <= last), None)

    def span(self, batch_id: int) -> tuple[int, int]:
        """First and last image id of a batch."""
        query = select(batches.c.first_image_id, batches.c.last_image_id).where(batches.c.id == batch_id)
        with self._database.read() as connection:
            row = connection.execute(query).one()
        return row[0], row[1]

    def image_id(self, path: str) -> int:
        with self._database.read() as connection:
            return connection.execute(select(images.c.id).where(images.c.path == path)).scalar_one()

    def batch(self, batch_id: int) -> tuple[str, int]:
        """State and attempts of a batch."""
        query = select(batches.c.state, batches.c.attempts).where(batches.c.id == batch_id)
        with self._database.read() as connection:
            row = connection.execute(query).one()
        return row[0], row[1]

    def done_batches(self) -> dict[int, int]:
        """Closed batches and the token that each was closed under."""
        query = select(batches.c.id, batches.c.token).where(batches.c.state == BatchState.DONE)
        with self._database.read() as connection:
            return {row.id: row.token for row in connection.execute(query)}

    def scanned(self) -> int | None:
        """Files that the open scan has found, None when no scan is open."""
        query = select(scans.c.found).where(scans.c.finished_at.is_(None))
        with self._database.read() as connection:
            return connection.execute(query).scalar_one_or_none()

    def expire_lease(self, batch_id: int) -> None:
        """Let a lease expire now instead of half a minute later."""
        with self._database.write() as connection:
            connection.execute(update(batches).where(batches.c.id == batch_id).values(lease_expires_at=Now() - 1))

    def is_done(self) -> bool:
        return self._false_in_outage(lambda: all(run.state is RunState.DONE for run in list_runs(self._database)))

    def failed(self) -> list[tuple[int, str]]:
        """Image and reason of every failure."""
        query = select(outcomes.c.image_id, outcomes.c.reason).where(outcomes.c.reason.is_not(None))
        with self._database.read() as connection:
            return [(row[0], row[1]) for row in connection.execute(query)]

    def assert_one_outcome_each(self, number: int, failed: Sequence[tuple[int, str]] = ()) -> None:
        """Check that a run of `number` distinct images is done, and that each image has exactly one outcome."""
        with self._database.read() as connection:
            each = Counter(connection.execute(select(outcomes.c.image_id)).scalars())
            current = set(connection.execute(select(images.c.id).where(images.c.current)).scalars())
            still_open = select(func.count()).where(batches.c.state.in_(OPEN_STATES))
            assert connection.execute(still_open).scalar_one() == 0
            predicted = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
        assert set(each) == current
        assert set(each.values()) == {1}
        assert len(each) == number
        assert self.failed() == list(failed)
        assert predicted == number - len(failed)
        (run,) = list_runs(self._database)
        assert (run.state, run.processed, run.failed, run.inferred) == (RunState.DONE, number, len(failed), predicted)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock an SQLite database for writing."""
        with closing(self._sqlite(30.0)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield

    def is_writable(self) -> bool:
        """Return whether an SQLite database is not locked for writing; PostgreSQL is always writable."""
        if not self.url.startswith("sqlite"):
            return True
        with closing(self._sqlite(0.2)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True

    def _sqlite(self, seconds: float) -> sqlite3.Connection:
        return sqlite3.connect(str(make_url(self.url).database), timeout=seconds, isolation_level=None)

    @staticmethod
    def _false_in_outage(ask: Callable[[], bool]) -> bool:
        try:
            return ask()
        except DatabaseOutage:
            return False


# -- commands ----------------------------------------------------------------------------------------------------


class Command:
    """One `bonescreen` command in its own process, with all processes that it starts."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bonescreen", *arguments],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._seen: set[psutil.Process] = {psutil.Process(self._process.pid)}

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        return self._process.pid

    def descendants(self) -> list[psutil.Process]:
        """Return all processes below it that are alive."""
        try:
            living = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._seen.update(living)
        return living

    def service(self, module: str) -> psutil.Process:
        """Return the process that runs ``python -m MODULE``, or the broker for ``valkey``."""
        return await_that(lambda: self._find(module), 30, f"{module} runs")

    def _find(self, module: str) -> psutil.Process | None:
        for process in self.descendants():
            try:
                words, parent = process.cmdline(), process.ppid()
            except psutil.Error:
                continue
            is_broker = module == "valkey" and module in "".join(words[:1])
            if parent == self.pid and (is_broker or words[1:] == ["-P", "-m", module]):
                return process
        return None

    def kill(self) -> None:
        """Kill it, as in a crash."""
        self.descendants()
        self._process.kill()
        self._process.wait()

    def ended(self, seconds: float) -> int:
        """Wait until it exits; return the exit code."""
        return self._process.wait(seconds * PATIENCE)

    def runs(self) -> bool:
        return self._process.poll() is None

    def survivors(self) -> list[psutil.Process]:
        """Return those processes seen below it that are still alive."""
        return [process for process in self._seen if _lives(process)]

    def stop(self) -> None:
        """Terminate it, and check that none of its processes is left."""
        self.descendants()
        if self.runs():
            self._process.terminate()
            try:
                self._process.wait(40 * PATIENCE)
            finally:
                for process in self.survivors():
                    process.kill()
        left = self.survivors()
        for process in left:
            process.kill()
        assert left == [], f"left behind: {left}"


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_stopped(thread: int) -> bool:
    try:
        return Path(f"/proc/{thread}/stat").read_text().rpartition(")")[2].split()[0] in "TtZX"
    except FileNotFoundError:
        return True


class Stack:
    """One home, one archive, one ledger, and the commands run on them."""

    def __init__(self, home: Path, archive: Archive, environ: Mapping[str, str], database_url: str) -> None:
        self.home = home
        self.archive = archive
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BONESCREEN_")},
            "BONESCREEN_HOME": str(home),
            "BONESCREEN_BATCH_SIZE": str(BATCH),
            "BONESCREEN_QUIET_SECONDS": "0",
            "OMP_NUM_THREADS": "1",
            **environ,
        }
        self.ledger = Ledger(database_url)
        self._commands: list[Command] = []
        home.mkdir(parents=True, exist_ok=True)

    def start(self, *arguments: str) -> Command:
        """Start a command and leave it running."""
        log = self.home / f"{arguments[0]}-{len(self._commands)}.log"
        command = Command(arguments, self.environ, log)
        self._commands.append(command)
        return command

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command to its end: exit code, and output in one line."""
        done = subprocess.run(
            [sys.executable, "-m", "bonescreen", *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120 * PATIENCE,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def close(self) -> None:
        """Stop every command; fails when one leaves a process behind."""
        try:
            for command in reversed(self._commands):
                command.stop()
        finally:
            self.ledger.close()

    def suspended_at_work(self) -> tuple[psutil.Process, ClaimedBatch]:
        """Wait for a worker child that has claimed a batch, and suspend it (SIGSTOP)."""
        return await_that(self.suspend_claiming_child, 60, "a worker has claimed a batch")

    def suspend_claiming_child(self) -> tuple[psutil.Process, ClaimedBatch] | None:
        """Suspend (SIGSTOP) a worker child that has claimed a batch, if there is one."""
        claimed = self.ledger.claimed_batches() if self.ledger.exists() else []
        if not claimed:
            return None
        batch = claimed[0]
        try:
            child = psutil.Process(batch.pid)
            child.suspend()
            # The signal stops its threads a moment later, in which a fast machine finishes a batch.
            await_that(lambda: all(_is_stopped(thread.id) for thread in child.threads()), 10, "the child has stopped")
        except psutil.NoSuchProcess:
            return None
        # A child suspended within a transaction would lock an SQLite database.
        if self.ledger.is_writable() and self.ledger.is_claimed(batch):
            return child, batch
        child.resume()
        return None

    def assert_work_continues(self, seconds: float, *, after: str, images: int = 1) -> None:
        """Wait until `images` more images are processed, and print how long it took."""
        # A fast machine may have done most of it before the fault.
        enough, began = min(self.ledger.processed() + images, self.archive.images), time.monotonic()
        await_that(lambda: self.ledger.processed() >= enough, seconds, f"work continues after {after}")
        print(f"{after}: work continues after {time.monotonic() - began:.1f} s")

    def assert_run_finishes(self, seconds: float) -> None:
        """Wait until the run is done, and check that each image has one outcome."""
        began = time.monotonic()
        await_that(self.ledger.is_done, seconds, "the run is done")
        print(f"done after {time.monotonic() - began:.1f} s more")
        self.ledger.assert_one_outcome_each(self.archive.images)
