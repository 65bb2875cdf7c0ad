"""The supervisor: starts processes, restarts those that die, and stops them all at the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

QUICK_EXIT_SECONDS = 10.0
"""A process that lived for less is restarted only after a pause."""
MAX_BACKOFF_SECONDS = 15.0
STOP_SECONDS = 10.0
"""How long a process may take to shut down before it is killed."""
CHECK_SECONDS = 2.0
"""Pause between two checks whether a service responds."""
MAX_FAILED_CHECKS = 5
LOG_BYTES = 10_000_000


@dataclass(frozen=True)
class Service:
    """One process to keep running.

    Parameters
    ----------
    name : str
        Shown to users.
    command : sequence of str
        Program and arguments.
    environ : mapping of str to str
        Its complete environment.
    log : Path or None
        File for its output; None if it shares this process's.
    is_responding : callable or None
        Checks within about a second whether it can be reached; None if it is enough that its process runs.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path | None = None
    is_responding: Callable[[], bool] | None = None


class Supervisor:
    """Keeps services running until the end of a ``with`` block; use it from the main thread only.

    A service that exits soon after its start is restarted after a pause, which doubles each time up to
    `MAX_BACKOFF_SECONDS`. One that runs but fails `MAX_FAILED_CHECKS` checks in a row is killed and restarted.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        self._processes = [_ServiceProcess(service) for service in services]

    def __enter__(self) -> "Supervisor":
        """Start every service, in order."""
        try:
            for process in self._processes:
                process.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every service, the last one first."""
        self.stop()

    def check(self) -> list[str]:
        """Restart services that died or do not respond; return the names of those that keep dying."""
        return [process.service.name for process in self._processes if process.check()]

    def stop(self) -> None:
        """Terminate the services, the last one first, and kill those that take too long; if interrupted, kill all."""
        try:
            for process in reversed(self._processes):
                process.stop()
        finally:
            for process in self._processes:
                process.kill()


class _ServiceProcess:
    """The current process of one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.popen: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._backoff = 0.0
        self._next_start = 0.0
        self._next_check = 0.0
        self._failed_checks = 0

    def start(self) -> None:
        output: IO[bytes] | None = None
        if self.service.log is not None:
            _rotate(self.service.log)
            output = self.service.log.open("ab")
        try:
            # Its own session: only the supervisor gets Ctrl-C, and a hung service is killed with its children.
            # -P: otherwise a db.py or numpy.py in the current folder would be imported.
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.parent_death", str(os.getpid()), *self.service.command],
                env=dict(self.service.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            if output is not None:
                output.close()
        self._started = time.monotonic()
        self._failed_checks = 0

    def check(self) -> bool:
        now = time.monotonic()
        if self.popen is not None:
            if self.popen.poll() is None and not self._is_unresponsive(now):
                return False
            self.kill()
            quick = now - self._started < QUICK_EXIT_SECONDS
            self._backoff = min(max(1.0, self._backoff * 2), MAX_BACKOFF_SECONDS) if quick else 0.0
            self._next_start = now + self._backoff
        if now >= self._next_start:
            self.start()
        return self._backoff > 2.0

    def _is_unresponsive(self, now: float) -> bool:
        # Failed checks are counted, not timed: a supervisor that was itself stopped makes no checks meanwhile.
        if self.service.is_responding is not None and now >= self._next_check:
            self._next_check = now + CHECK_SECONDS
            self._failed_checks = 0 if self.service.is_responding() else self._failed_checks + 1
        return self._failed_checks >= MAX_FAILED_CHECKS

    def stop(self) -> None:
        if self.popen is None:
            return
        self.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        if self.popen is None:
            return
        _kill_group(self.popen.pid)
        self.popen.wait()
        self.popen = None


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
