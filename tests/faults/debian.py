"""Debian's Redis and PostgreSQL servers; optional on a developer's host, required in CI."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import OperationalError

from tests.archives import NOBODY
from tests.awaiting import PATIENCE, await_that
from tests.broker import free_port

REDIS = Path("/usr/bin/redis-server")
PASSWORD = "not-a-secret"


def require_debian_servers() -> None:
    """Skip the test if they are not installed; with BONESCREEN_TEST_DEBIAN set, as in CI, fail it."""
    if REDIS.exists() and _postgres_folders():
        return
    missing = "Debian's servers are not installed: apt-get install redis-server postgresql"
    if os.environ.get("BONESCREEN_TEST_DEBIAN"):
        pytest.fail(missing)
    pytest.skip(missing)


def _postgres_folders() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))


@contextmanager
def debian_postgres() -> Iterator[str]:
    """Run Debian's newest PostgreSQL on loopback with a password; yield its URL."""
    programs = _postgres_folders()[-1]
    # PostgreSQL refuses to run as root, and other users cannot read pytest's folder.
    with tempfile.TemporaryDirectory(prefix="bonescreen-") as name:
        folder = Path(name)
        user = NOBODY if os.geteuid() == 0 else os.geteuid()
        os.chown(folder, user, -1)
        (folder / "password").write_text(PASSWORD)
        data, port = folder / "data", free_port()
        init = [programs / "initdb", "-D", data, "-U", "bonescreen", "-A", "scram-sha-256", "--no-sync", "-E", "UTF8"]
        init.append(f"--pwfile={folder / 'password'}")
        subprocess.run(init, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        run = [programs / "postgres", "-D", data, *(f"--{option}={value}" for option, value in options.items())]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(run, user=user, cwd=folder, stdout=log, stderr=log)
        try:
            url = f"postgresql://bonescreen:{PASSWORD}@127.0.0.1:{port}/postgres"
            await_that(lambda: _responds(url), 30, "Debian's PostgreSQL answers")
            yield url
        finally:
            # On SIGTERM it would wait for its clients to disconnect.
            server.send_signal(signal.SIGINT)
            server.wait(30 * PATIENCE)


def _responds(url: str) -> bool:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        engine.connect().close()
        return True
    except OperationalError:
        return False
    finally:
        engine.dispose()
