"""The watchdog ends a hung child process."""

import subprocess
import sys
import time

from tests.awaiting import PATIENCE

BEGIN = """
import threading
from db.ledger import BatchImage
from worker.watchdog import in_work, start_watchdog
image = BatchImage(7, "image.png", 1, 1)
start_watchdog(lambda hung: print("hung at", *[one.image_id for one in hung], flush=True), lambda: None, {seconds})
print("begun", flush=True)
"""

BUSY_IN_C = (
    BEGIN
    + """
import re
re.fullmatch("(a+)+b", "a" * {length})
print("done", flush=True)
"""
)

NEVER_LOADED = (
    BEGIN
    + """
with in_work(image):
    threading.Event().wait()
"""
)

NEVER_INFERRED = NEVER_LOADED.replace("in_work(image)", "in_work(None)")


def run(script: str, seconds: float, length: int = 0) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", script.format(seconds=seconds, length=length)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100 * PATIENCE)


def test_a_process_in_which_python_does_not_run_for_too_long_ends_with_a_traceback() -> None:
    began = time.monotonic()
    done = run(BUSY_IN_C, seconds=1.0, length=64)
    assert (done.returncode, done.stdout) == (1, "begun\n")
    assert "fullmatch" in done.stderr
    assert time.monotonic() - began < 60


def test_a_process_that_never_ends_to_load_an_image_ends_even_if_python_runs_and_names_the_image() -> None:
    done = run(NEVER_LOADED, seconds=1.0)
    assert (done.returncode, done.stdout) == (1, "begun\nhung at 7\n")


def test_a_process_whose_inference_never_ends_ends_and_blames_no_image() -> None:
    done = run(NEVER_INFERRED, seconds=1.0)
    assert (done.returncode, done.stdout) == (1, "begun\nhung at\n")


def test_a_process_that_is_busy_for_a_shorter_time_continues() -> None:
    done = run(BUSY_IN_C, seconds=30.0, length=16)
    assert (done.returncode, done.stdout) == (0, "begun\ndone\n")
