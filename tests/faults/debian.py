"""Debian's Redis, PostgreSQL and PgBouncer."""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import OperationalError

from tests.archives import NOBODY
from tests.awaiting import PATIENCE, await_that
from tests.broker import free_port
from tests.debian_packages import require_packages

REDIS = Path("/usr/bin/redis-server")
PGBOUNCER = Path("/usr/sbin/pgbouncer")
PASSWORD = "not-a-secret"


def require_debian_servers() -> None:
    """Skip or fail the test if they are not installed."""
    require_packages("redis-server", "postgresql", "pgbouncer")


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


class PgBouncer:
    """Debian's PgBouncer in transaction mode, before a PostgreSQL server on loopback."""

    def __init__(self, folder: Path, server_url: str, pool_size: int) -> None:
        server = make_url(server_url)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        port = free_port()
        self.url = server.set(port=port).render_as_string(hide_password=False)
        # It refuses to run as root, and other users cannot read pytest's folder.
        self._user = NOBODY if os.geteuid() == 0 else os.geteuid()
        os.chown(folder, self._user, -1)
        (folder / "users").write_text(f'"{server.username}" "{server.password}"\n')
        self._server = server
        self._settings: dict[str, object] = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "plain",
            "auth_file": folder / "users",
            "pool_mode": "transaction",
            "default_pool_size": pool_size,
            "server_login_retry": 1,
        }

    def restart(self, **settings: object) -> None:
        """Start it anew with other settings."""
        self.kill()
        self._settings |= settings
        self.start()

    def start(self) -> None:
        lines = [f"[databases]\n* = host={self._server.host} port={self._server.port}\n[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in self._settings.items()]
        (self._folder / "pgbouncer.ini").write_text("\n".join(lines))
        with (self._folder / "log").open("ab") as log:
            command = [PGBOUNCER, self._folder / "pgbouncer.ini"]
            self._process = subprocess.Popen(command, user=self._user, cwd=self._folder, stdout=log, stderr=log)
        await_that(self._listens, 30, "PgBouncer listens")

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", int(str(self._settings["listen_port"])))) == 0

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30 * PATIENCE)


@contextmanager
def debian_pgbouncer(server_url: str, pool_size: int) -> Iterator[PgBouncer]:
    """Run Debian's PgBouncer in transaction mode before a server."""
    with tempfile.TemporaryDirectory(prefix="bonescreen-") as name:
        pooler = PgBouncer(Path(name), server_url, pool_size)
        pooler.start()
        try:
            yield pooler
        finally:
            pooler.kill()
