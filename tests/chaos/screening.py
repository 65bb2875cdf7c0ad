"""One archive being screened by real processes, to inject faults into: on one machine, or on a cluster."""

import hashlib
import os
import random
import shutil
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from bonescreen.broker import broker_socket, broker_url
from db.failures import count_failures
from db.migrate import upgrade
from db.run_queries import RunState, list_runs
from db.session import Database
from tests.archives import png_of
from tests.awaiting import PATIENCE, await_that
from tests.broker import TcpBroker
from tests.chaos.audit import start_audit
from tests.chaos.slow_storage import SlowStorage
from tests.faults.conftest import join_cluster
from tests.faults.own_postgres import OwnPostgres
from tests.faults.stack import ARCHIVE, Archive, Command, Stack
from tests.tiny import SIZE, some_images
from xray.errors import DatabaseOutage
from xray.message import queue_name
from xray.network.package import load_package
from xray.settings import read_settings
from xray.vocabulary import Precision, Reason

T = TypeVar("T")

IMAGES_PER_STUDY = 10

LIMIT_SECONDS = 240.0
"""Within this time work must go on after a fault, and a run must end after its last one."""

NAMED_SECONDS = 60.0
"""Within this time `status` must name the cause of what only a person can put right."""

DISK_BYTES = 48 * 1024 * 1024

POLL_SECONDS = 0.05

MIGRATION = threading.Lock()
"""Alembic's state is that of the process."""


class Kind(StrEnum):
    """The two kinds of stack."""

    ONE_MACHINE = "one machine"
    CLUSTER = "cluster"


class NotInjectedError(Exception):
    """The run ended before the fault could be injected."""


class OverdueError(Exception):
    """Something that must happen by itself did not, in time."""


def draw_pool(folder: Path, images: int) -> list[Path]:
    """Write distinct images of 64 x 64 pixels, from which archives are made."""
    folder.mkdir(parents=True)
    files = []
    for number, pixels in enumerate(some_images(images, SIZE)):
        files.append(folder / f"{number:05}.png")
        files[-1].write_bytes(png_of(pixels, bits=8))
    return files


class Screening(ABC):
    """An archive, its stack, and the processes that screen it; each of the two kinds starts them in its own way.

    Attributes
    ----------
    contents : dict of str to bytes
        The SHA-256 of each image, by path below the archive's root.
    named : float or None
        Seconds until `status` named the cause of the latest fault that a person has to put right.
    unnamed : list of str
        What `status` said instead of a cause.
    """

    def __init__(self, folder: Path, seed: str, pool: Sequence[Path], package: Path) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        folder.mkdir(parents=True)
        self.package = folder / "model"
        shutil.copytree(package, self.package)
        self.archive = Archive(folder / ARCHIVE, len(pool))
        self.contents = {}
        for number, file in enumerate(pool):
            data, path = file.read_bytes(), _path(number)
            self.contents[path] = hashlib.sha256(data).digest()
            (self.archive.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.archive.root / path).write_bytes(data)
        self.folders = sorted({(self.archive.root / path).parent for path in self.contents})
        self.home = folder / "home"
        self.named: float | None = None
        self.unnamed: list[str] = []
        self.commands: list[Command] = []
        self.storage: SlowStorage | None = None
        self.stack = self.make_stack()
        self.database = Database(self.stack.ledger.url)
        with MIGRATION:
            upgrade(self.database)
        start_audit(self.database)

    @abstractmethod
    def make_stack(self) -> Stack:
        """Make the stack, with its database and broker."""

    @abstractmethod
    def start(self) -> None:
        """Start to screen the archive."""

    @abstractmethod
    def kill_broker(self) -> None: ...

    @abstractmethod
    def wipe_broker(self) -> None:
        """Delete the data of a killed broker."""

    @abstractmethod
    def start_broker(self) -> None:
        """Start a killed broker again, unless its supervisor does."""

    @abstractmethod
    def freeze_broker(self) -> Callable[[], None]:
        """Suspend the broker; return what continues it."""

    @abstractmethod
    def broker(self) -> redis.Redis: ...

    @property
    @abstractmethod
    def broker_url(self) -> str: ...

    @property
    @abstractmethod
    def command(self) -> str:
        """The command that screens."""

    def begin(self, seed: int) -> None:
        """Start to screen on slow storage, and wait for the first results."""
        self.storage = SlowStorage(self.folders, seed)
        self.start()
        self.await_progress("the start")

    def close(self) -> None:
        """Stop everything; a process that is left behind is an error."""
        try:
            self.stack.close()
        finally:
            self.database.close()
            if self.storage is not None:
                self.storage.close()

    # -- processes -----------------------------------------------------------------------------------------------

    def start_command(self, *arguments: str) -> Command:
        self.commands.append(self.stack.start(*arguments))
        return self.commands[-1]

    def a_command(self) -> Command:
        """Draw one of the commands that screen."""
        return self.rng.choice([command for command in self.commands if command.runs()] or [self.restart()])

    def restart(self) -> Command:
        """Start the command that screens once more."""
        return self.start_command(self.command, *([str(self.archive.root)] if self.command == "screen" else []))

    def service(self, module: str) -> psutil.Process:
        """Draw the process of a service: ``worker`` (the Celery parent), ``producer`` (the feeder) or ``valkey``."""
        return self.until(lambda: _found(self.a_command(), module), f"a process of {module}")

    def worker_child(self) -> psutil.Process:
        """Draw a Celery child."""
        return self.until(self._child, "a worker child")

    def _child(self) -> psutil.Process | None:
        with suppress(psutil.Error):
            parent = _found(self.a_command(), "worker")
            children = parent.children() if parent else []
            return children[0] if children else None
        return None

    # -- waiting -------------------------------------------------------------------------------------------------

    def pause(self, low: float, high: float) -> None:
        """Let a drawn time pass."""
        time.sleep(self.rng.uniform(low, high))

    def until(self, condition: Callable[[], T | None], what: str, seconds: float = LIMIT_SECONDS) -> T:
        """Wait for something that needs an open run.

        Raises
        ------
        NotInjectedError
            The run is done.
        OverdueError
            It took too long.
        """
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if self.is_done():
                raise NotInjectedError
            if time.monotonic() > deadline:
                raise OverdueError(f"not within {seconds:.0f} s: {what}")
            time.sleep(POLL_SECONDS)
        return value

    def processed(self) -> int | None:
        """Count the images that are processed; None while the database does not answer."""
        try:
            runs = list_runs(self.database)
        except DatabaseOutage:
            return None
        return sum(run.processed for run in runs)

    def is_done(self) -> bool:
        """Return whether the run is done."""
        with suppress(DatabaseOutage):
            runs = list_runs(self.database)
            return bool(runs) and all(run.state is RunState.DONE for run in runs)
        return False

    def await_progress(self, after: str) -> float:
        """Wait until more images are processed or the run is done; return the seconds.

        Raises
        ------
        OverdueError
            It took longer than `LIMIT_SECONDS`.
        """
        began, before = time.monotonic(), None
        while time.monotonic() - began < LIMIT_SECONDS:
            now = self.processed()
            before = now if before is None else before
            if (now is not None and before is not None and now > before) or self.is_done():
                return time.monotonic() - began
            self.keep_running()
            time.sleep(POLL_SECONDS)
        raise OverdueError(f"no image was processed within {LIMIT_SECONDS:.0f} s after: {after}")

    def keep_running(self) -> None:
        """Start the command again if a fault ended it, as whoever supervises it does."""
        if not self.is_done() and not any(command.runs() for command in self.commands):
            self.restart()

    def await_end(self) -> None:
        """Wait until the run has ended by itself.

        Images that three workers were lost on are quarantined, as documented. `retry` then screens them.

        Raises
        ------
        OverdueError
            It has not.
        """
        deadline = time.monotonic() + LIMIT_SECONDS
        while not self.is_done():
            if time.monotonic() > deadline:
                raise OverdueError(f"the run has not ended within {LIMIT_SECONDS:.0f} s: {self.status()}")
            self.keep_running()
            time.sleep(POLL_SECONDS)

    def retry_quarantined(self) -> int:
        """Screen what is quarantined, now that no fault is injected any more; return how many images that were."""
        (run,) = list_runs(self.database)
        number = count_failures(self.database, run.run).get(Reason.QUARANTINED, 0)
        if number:
            self.must_run("retry", str(run.run))
            self.await_end()
        return number

    def status(self) -> str:
        return self.stack.run("status")[1]

    def await_status(self, *texts: str) -> None:
        """Wait until `status` says all of these, and note how long that took; at most `NAMED_SECONDS`."""
        began = time.monotonic()
        while True:
            code, said = self.stack.run("status")
            # On a slow machine, the answer is what `status` found when it was asked.
            seconds = time.monotonic() - began
            if code == 1 and all(words in said for words in texts) and seconds <= NAMED_SECONDS:
                self.named = seconds
                return
            if self.is_done():
                raise NotInjectedError
            if seconds > NAMED_SECONDS:
                self.unnamed.append(f"status does not name the cause {texts} after {NAMED_SECONDS:.0f} s: {said}")
                return

    def must_run(self, *arguments: str) -> str:
        """Run a command that must succeed; while the database restarts or is locked, again."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            code, said = self.stack.run(*arguments)
            if code == 0:
                return said
            if time.monotonic() > deadline:
                raise OverdueError(f"{' '.join(arguments)} ended with {code}: {said}")

    # -- archive and queue ---------------------------------------------------------------------------------------

    @contextmanager
    def archive_away(self, *, empty: bool) -> Iterator[None]:
        """Have no archive at its root within the block, or an empty folder, as where a mount is missing."""
        root = self.archive.root
        away = root.with_name("away")
        root.rename(away)
        if empty:
            root.mkdir()
        try:
            yield
        finally:
            if empty:
                root.rmdir()
            away.rename(root)

    @property
    def queue(self) -> str:
        """The queue of this model."""
        return queue_name(load_package(self.package).digest, Precision.FP32)


def _path(number: int) -> str:
    study, image = divmod(number, IMAGES_PER_STUDY)
    return f"XR_HUMERUS/patient{study:05}/study1_positive/image{image + 1}.png"


def _found(command: Command, module: str) -> psutil.Process | None:
    for process in command.descendants():
        with suppress(psutil.Error):
            words = process.cmdline()
            is_broker = module == "valkey" and module in "".join(words[:1])
            if process.ppid() == command.pid and (is_broker or words[1:] == ["-P", "-m", module]):
                return process
    return None


class OneMachine(Screening):
    """`bonescreen screen`: SQLite and the embedded broker; its home is a disk of its own, which can become full."""

    def make_stack(self) -> Stack:
        self.home.mkdir()
        options = f"size={DISK_BYTES}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", self.home], check=True)
        environ = {"BONESCREEN_MODEL": str(self.package)}
        return Stack(self.home, self.archive, environ, f"sqlite:///{self.home / 'bonescreen.db'}")

    @property
    def command(self) -> str:
        return "screen"

    def start(self) -> None:
        self.restart()

    def await_end(self) -> None:
        """Wait until the run has ended, and `screen` too, with success."""
        super().await_end()
        for command in [command for command in self.commands if command.runs()]:
            try:
                code = command.ended(LIMIT_SECONDS / PATIENCE)
            except subprocess.TimeoutExpired as error:
                raise OverdueError(f"the run is done, and `screen` has not ended: {command.text}") from error
            if code:
                raise OverdueError(f"the run is done, and `screen` ended with {code}: {command.text}")

    def close(self) -> None:
        """Stop everything, and unmount the home; its logs are kept beside it."""
        try:
            super().close()
        finally:
            shutil.copytree(self.home, self.folder / "kept", ignore=shutil.ignore_patterns("*.sock", "filler"))
            subprocess.run(["umount", "--lazy", self.home], check=True)

    def kill_broker(self) -> None:
        self.service("valkey").kill()

    def wipe_broker(self) -> None:
        shutil.rmtree(self.home / "broker", ignore_errors=True)

    def start_broker(self) -> None:
        """Leave it to the supervisor."""

    def freeze_broker(self) -> Callable[[], None]:
        broker = self.service("valkey")
        broker.suspend()

        def resume() -> None:
            # The supervisor may have replaced it meanwhile.
            with suppress(psutil.NoSuchProcess):
                broker.resume()

        return resume

    def broker(self) -> redis.Redis:
        path = str(broker_socket(read_settings(self.stack.environ)))
        return redis.Redis(unix_socket_path=path, socket_timeout=2.0, retry=Retry(NoBackoff(), 0))

    @property
    def broker_url(self) -> str:
        return broker_url(read_settings(self.stack.environ))


class Cluster(Screening):
    """`bonescreen enqueue` and one or two `bonescreen worker`: PostgreSQL and a Redis-protocol server on TCP."""

    def __init__(
        self, folder: Path, seed: str, pool: Sequence[Path], package: Path, server: TcpBroker, postgres: OwnPostgres
    ) -> None:
        self.server, self.postgres = server, postgres
        self._database_url = _new_database(postgres.url)
        super().__init__(folder, seed, pool, package)

    def make_stack(self) -> Stack:
        self.server.start()
        package = load_package(self.package)
        return join_cluster(self.home, self.archive, package, self.server, self._database_url)

    @property
    def command(self) -> str:
        return "worker"

    def start(self) -> None:
        for _ in range(self.rng.choice((1, 2))):
            self.restart()
        self.must_run("enqueue", ARCHIVE)

    def close(self) -> None:
        """Stop everything, and drop the broker's data."""
        try:
            super().close()
        finally:
            self.server.kill()
            self.server.delete_data()

    def kill_broker(self) -> None:
        self.server.kill()

    def wipe_broker(self) -> None:
        self.server.delete_data()

    def start_broker(self) -> None:
        self.server.start()

    def freeze_broker(self) -> Callable[[], None]:
        self.server.freeze()
        return self.server.unfreeze

    def broker(self) -> redis.Redis:
        return self.server.client()

    @property
    def broker_url(self) -> str:
        return self.server.url

    def terminate_connections(self) -> None:
        """End every connection to the run's database but this one."""
        with _administration(self.postgres.url) as connection:
            name = make_url(self._database_url).database
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )


@contextmanager
def _administration(url: str) -> Iterator[Connection]:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _new_database(url: str) -> str:
    name = f"chaos_{os.urandom(8).hex()}"

    def create() -> bool:
        try:
            with _administration(url) as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            return True
        except OperationalError:
            return False

    await_that(create, 30, "the database server answers")
    return make_url(url).set(database=name).render_as_string(hide_password=False)
