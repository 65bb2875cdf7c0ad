"""Kills the processes and servers that a pytest process started, once that process has ended.

``python -m tests.reaper MARK FOLDER`` waits for the end of its standard input, which the kernel closes even when pytest
is killed. It finds the processes by the mark in their environment. Valkey and PostgreSQL overwrite theirs with their
titles, so it finds them by the folder that they work in: FOLDER, or one named by a line of standard input.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

VARIABLE = "PYTEST_MARKS"
"""Holds the mark of each pytest process that a process descends from; pytest-xdist has a controller and workers."""

SERVERS = ("postgres", "redis-server", "valkey-server")
PATIENCE_SECONDS = 10.0
PAUSE_SECONDS = 0.1
QUIET_LOOKS = 3
"""Searches in a row that must find nothing; a process that is just starting may be missed by the first."""


class Reaper:
    """Runs the clean-up in a separate process, which outlives this one; start it before anything that it has to kill.

    Attributes
    ----------
    folder : Path
        For temporary files; other users can write to it, because PostgreSQL does not run as root. Removed at the end.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bonescreen-tests-"))
        self.folder.chmod(0o1777)
        mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reaper", mark, str(self.folder)],
            # Without marks, so that another reaper does not kill this one.
            env={name: value for name, value in os.environ.items() if name != VARIABLE},
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            text=True,
            # In its own session, because Ctrl-C goes to the terminal's whole process group.
            start_new_session=True,
        )
        os.environ[VARIABLE] = " ".join((*os.environ.get(VARIABLE, "").split(), mark))

    def watch(self, folder: Path) -> None:
        """Kill also the servers that work below a folder."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Run the clean-up now and wait for it."""
        self._process.communicate()


def started(mark: str, folders: Sequence[Path]) -> Iterator[psutil.Process]:
    """Yield the running processes that are to be killed."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() in SERVERS:
                parent = process.parent()
                # PostgreSQL stops its own children.
                is_child = parent is not None and parent.name() == process.name()
                if not is_child and any(Path(process.cwd()).is_relative_to(folder) for folder in folders):
                    yield process
            elif mark in process.environ().get(VARIABLE, ""):
                yield process


def reap(mark: str, folders: Sequence[Path]) -> None:
    """Kill everything that was started, and check that nothing is left."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    looks = 0
    while looks < QUIET_LOOKS:
        found = list(started(mark, folders))
        for process in found:
            with suppress(psutil.Error):
                # Killed outright, PostgreSQL leaves its shared memory behind.
                is_asked = process.name() == "postgres" and time.monotonic() < deadline
                process.send_signal(signal.SIGQUIT if is_asked else signal.SIGKILL)
        looks = 0 if found else looks + 1
        time.sleep(PAUSE_SECONDS)


def main() -> None:
    mark, folder = sys.argv[1:]
    folders = [Path(folder), *(Path(line.rstrip("\n")) for line in sys.stdin)]
    reap(mark, folders)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
