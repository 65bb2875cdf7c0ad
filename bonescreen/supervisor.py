"""Start processes, start them again when they die, and stop them all at the end."""

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

QUICK_DEATH_SECONDS = 10.0
LONGEST_BACKOFF_SECONDS = 15.0
STOP_SECONDS = 10.0
ASK_SECONDS = 2.0
MOST_SILENCES = 5
LOG_BYTES = 10_000_000


@dataclass(frozen=True)
class Service:
    """One process to keep running.

    Parameters
    ----------
    name : str
        What people call it.
    command : sequence of str
        Program and arguments.
    environ : mapping of str to str
        Its whole environment.
    log : Path or None
        Where its output goes; None lets it through.
    responds : callable or None
        Tells within a second or so whether it can be reached; None where its process says all.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path | None = None
    responds: Callable[[], bool] | None = None


class Supervisor:
    """Keeps services running until the end of a ``with`` block; use it from the main thread only.

    A service that dies at once is started again after a pause that doubles up to `LONGEST_BACKOFF_SECONDS`. One that
    lives but was asked `MOST_SILENCES` times in a row and did not respond is killed and started again.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        self._kept = [_Kept(service) for service in services]

    def __enter__(self) -> "Supervisor":
        """Start every service, in order."""
        try:
            for kept in self._kept:
                kept.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every service, the last one first."""
        self.stop()

    def check(self) -> list[str]:
        """Start again what has died or does not respond; return the names of services that keep dying."""
        return [kept.service.name for kept in self._kept if kept.check()]

    def pids(self) -> dict[str, int]:
        """Name the running services' process ids."""
        return {kept.service.name: kept.process.pid for kept in self._kept if kept.process is not None}

    def stop(self) -> None:
        """Ask every service to end, the last one first, and end what does not; interrupted, end them all at once."""
        try:
            for kept in reversed(self._kept):
                kept.stop()
        finally:
            for kept in self._kept:
                kept.kill()


class _Kept:
    """One service and its present process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._backoff = 0.0
        self._next_start = 0.0
        self._next_ask = 0.0
        self._silences = 0

    def start(self) -> None:
        output: IO[bytes] | None = None
        if self.service.log is not None:
            _rotate(self.service.log)
            output = self.service.log.open("ab")
        try:
            # Its own session: Ctrl-C is the supervisor's to hear, and a stuck service is killed with its children.
            # -P: a db.py or numpy.py in the current folder is not ours to import.
            self.process = subprocess.Popen(
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
        self._silences = 0

    def check(self) -> bool:
        now = time.monotonic()
        if self.process is not None:
            if self.process.poll() is None and not self._is_lost(now):
                return False
            self.kill()
            quick = now - self._started < QUICK_DEATH_SECONDS
            self._backoff = min(max(1.0, self._backoff * 2), LONGEST_BACKOFF_SECONDS) if quick else 0.0
            self._next_start = now + self._backoff
        if now >= self._next_start:
            self.start()
        return self._backoff > 2.0

    def _is_lost(self, now: float) -> bool:
        # Silences are counted and not timed: who was stopped itself for an hour has not asked meanwhile.
        if self.service.responds is not None and now >= self._next_ask:
            self._next_ask = now + ASK_SECONDS
            self._silences = 0 if self.service.responds() else self._silences + 1
        return self._silences >= MOST_SILENCES

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        if self.process is None:
            return
        _kill_group(self.process.pid)
        self.process.wait()
        self.process = None


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
