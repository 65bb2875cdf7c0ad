"""Podman with settings and storage of its own, and podman-compose on top of it."""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

COMPOSE = "podman-compose==1.6.0"

PATIENCE = 4
"""How many times longer anything may take than on an idle machine."""

NAMES = Path("/run/containers/networks/aardvark-dns/bonescreen_default")
"""The names and addresses of the containers, for every Podman of this machine, whatever its settings."""

CONTAINERS_CONF = """
[containers]
# Without the right to raise limits, Podman's defaults are refused.
default_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{folder}/run/libpod"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""

STORAGE_CONF = """
[storage]
driver = "{driver}"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""


class CommandError(Exception):
    """A command that this program needs has failed; the text has the end of what it printed."""


def output_of(command: Sequence[str], typed: str = "", **options: Any) -> str:
    """Run a command with a text on its standard input, and return its standard output.

    Raises
    ------
    CommandError
        If it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, input=typed, **options)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise CommandError(f"{' '.join(command[:6])} ... failed with exit code {done.returncode}:\n{end}")
    return done.stdout


class Podman:
    """Runs podman and podman-compose apart from other users of Podman on this machine.

    Parameters
    ----------
    folder : Path
        For everything they store.
    project : Path
        The folder with docker-compose.yml.
    """

    def __init__(self, folder: Path, project: Path) -> None:
        self._project = project
        # What a run that was killed left there: names of containers that are gone, on which a lookup takes 30 s.
        NAMES.unlink(missing_ok=True)
        self._environ = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
            # Not every machine has systemd, whose timers run Podman's health checks: see `HealthTimer`.
            "DISABLE_HC_SYSTEMD": "true",
        }
        files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 16)
        (folder / "containers.conf").write_text(CONTAINERS_CONF.format(folder=folder, files=files))
        (folder / "registries.conf").write_text('unqualified-search-registries = ["docker.io"]\n')
        self.driver = self._choose_driver(folder)
        self.pip = folder / "tools" / "bin" / "pip"
        output_of([sys.executable, "-m", "venv", str(folder / "tools")])
        output_of([str(self.pip), "install", "--quiet", COMPOSE])

    def _choose_driver(self, folder: Path) -> str:
        for driver in ("overlay", "vfs"):
            (folder / "storage.conf").write_text(STORAGE_CONF.format(folder=folder, driver=driver))
            try:
                self.run("info")
            except CommandError:
                continue
            return driver
        raise CommandError("podman can store images neither with overlay nor with vfs")

    def run(self, *words: str) -> str:
        """Run a command of podman and return its output."""
        return output_of(["podman", *words], env=self._environ)

    def compose(self, *words: str, typed: str = "") -> str:
        """Run a command of podman-compose and return its output."""
        compose = self.pip.with_name("podman-compose")
        return output_of([str(compose), *words], typed, env=self._environ, cwd=self._project)

    def succeeds(self, *words: str) -> bool:
        """Return whether a command of podman succeeds."""
        return subprocess.run(["podman", *words], env=self._environ, capture_output=True).returncode == 0

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what podman knows of a container."""
        found: dict[str, Any] = json.loads(self.run("container", "inspect", container))[0]
        return found

    def containers(self, *options: str) -> list[str]:
        """Return the names of the running containers; with ``--all``, of all."""
        return sorted(self.run("ps", "--format={{.Names}}", *options).split())

    def health(self, container: str) -> str:
        """Return ``healthy``, ``unhealthy`` or ``starting``; empty for a container without a health check."""
        status: str = self.inspect(container)["State"].get("Health", {}).get("Status", "")
        return status

    def log(self, container: str) -> str:
        """Return the last lines that a container printed."""
        words = ["podman", "logs", "--tail=15", container]
        joined = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(words, env=self._environ, text=True, **joined).stdout

    def remove_everything(self) -> None:
        """Remove all containers, networks, volumes and images, whatever state they are in."""
        self.succeeds("rm", "--all", "--force", "--time=0")
        self.succeeds("network", "prune", "--force")
        self.succeeds("system", "reset", "--force")

    def processes(self, container: str) -> list[int]:
        """Return the numbers that a container's processes have on this machine."""
        return [int(number) for number in self.run("top", container, "hpid").split()[1:]]


def await_that(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """Poll until a condition returns something true, and return that.

    Seldomer than `tests.awaiting` does, as each question to podman costs a tenth of a second of work.

    Raises
    ------
    CommandError
        If that takes longer than `seconds`, times `PATIENCE`.
    """
    deadline = time.monotonic() + seconds * PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise CommandError(f"not within {seconds * PATIENCE:.0f} s: {what}")
        time.sleep(0.5)
    return value


class HealthTimer:
    """Runs the containers' health checks at their intervals, as Docker's engine does.

    While a container is starting its check runs every five seconds, Docker's default too.
    """

    def __init__(self, podman: Podman) -> None:
        self._podman = podman
        self._due: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "HealthTimer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            try:
                for container in self._podman.containers():
                    self._check(container)
            except CommandError:
                # A container that was removed meanwhile.
                continue

    def _check(self, container: str) -> None:
        state = self._podman.inspect(container)
        check = state["Config"].get("Healthcheck")
        if check and time.monotonic() >= self._due.get(state["Id"], 0):
            self._podman.succeeds("healthcheck", "run", container)
            starting = self._podman.health(container) == "starting"
            seconds = check["Interval"] / 1e9
            self._due[state["Id"]] = time.monotonic() + (min(seconds, 5) if starting else seconds)
