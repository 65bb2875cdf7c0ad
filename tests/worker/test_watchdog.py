"""The watchdog ends a hung child process."""

import subprocess
import sys
import time

from tests.awaiting import PATIENCE

BUSY_IN_C = """
import re
from worker.watchdog import start_watchdog
start_watchdog({seconds})
print("begun", flush=True)
re.fullmatch("(a+)+b", "a" * {length})
print("done", flush=True)
"""


def run(seconds: float, length: int) -> "subprocess.CompletedProcess[str]":
    script = BUSY_IN_C.format(seconds=seconds, length=length)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100 * PATIENCE)


def test_a_process_in_which_python_does_not_run_for_too_long_ends_with_a_traceback() -> None:
    began = time.monotonic()
    done = run(seconds=1.0, length=64)
    assert (done.returncode, done.stdout) == (1, "begun\n")
    assert "fullmatch" in done.stderr
    assert time.monotonic() - began < 60


def test_a_process_whose_decoder_never_returns_ends_even_if_python_runs() -> None:
    script = (
        "import threading\nfrom worker.watchdog import decoding, start_watchdog\nstart_watchdog(1.0)\n"
        "with decoding():\n    print('begun', flush=True)\n    threading.Event().wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60 * PATIENCE)
    assert (done.returncode, done.stdout) == (1, "begun\n")


def test_a_process_that_is_busy_for_a_shorter_time_continues() -> None:
    done = run(seconds=30.0, length=16)
    assert (done.returncode, done.stdout) == (0, "begun\ndone\n")
