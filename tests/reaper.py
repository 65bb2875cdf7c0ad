"""Ends what a process of pytest has started and not ended as soon as it is gone, however it went.

``python -m tests.reaper MARK FOLDER`` does so at the end of its standard input, which the kernel brings about when
pytest is killed. What is to end has the mark in its environment. Valkey and PostgreSQL write their titles over theirs;
they are known by the folder that they work in: FOLDER, or one named by a line of standard input.
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
"""Holds a mark for each process of pytest above: with pytest-xdist its controller's and its worker's."""

SERVERS = ("postgres", "redis-server", "valkey-server")
PATIENCE_SECONDS = 10.0
PAUSE_SECONDS = 0.1
QUIET_LOOKS = 3
"""Looks in a row that find nothing: a process that was just being started is found by the second."""


class Reaper:
    """A process beside this one that outlives it, started ahead of all that it has to end.

    Attributes
    ----------
    folder : Path
        For temporary files, open to other users as PostgreSQL is not run as root; removed at the end.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bonescreen-tests-"))
        self.folder.chmod(0o1777)
        mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reaper", mark, str(self.folder)],
            # No other reaper ends this one.
            env={name: value for name, value in os.environ.items() if name != VARIABLE},
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            text=True,
            # Ctrl-C is sent to all of the terminal's process group.
            start_new_session=True,
        )
        os.environ[VARIABLE] = " ".join((*os.environ.get(VARIABLE, "").split(), mark))

    def watch(self, folder: Path) -> None:
        """End the servers that work below a folder, too."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Let it do its work now, and await it."""
        self._process.communicate()


def started(mark: str, folders: Sequence[Path]) -> Iterator[psutil.Process]:
    """Yield the processes that live and are to end."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() in SERVERS:
                parent = process.parent()
                # PostgreSQL ends its own children.
                is_child = parent is not None and parent.name() == process.name()
                if not is_child and any(Path(process.cwd()).is_relative_to(folder) for folder in folders):
                    yield process
            elif mark in process.environ().get(VARIABLE, ""):
                yield process


def reap(mark: str, folders: Sequence[Path]) -> None:
    """End all that was started, and see that nothing is left."""
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
