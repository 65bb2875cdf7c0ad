"""The command `screen` as people run it: from its start to its first result, and its worker's rate."""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from xray.errors import EngineOutage

_RESULT = re.compile(r"^[01]\.\d{3}  ")
_SUMMARY = re.compile(r"succeeded in .*'images': (\d+),.*'seconds': ([\d.]+),")


@dataclass(frozen=True, slots=True)
class Screened:
    """What one `bonescreen screen` in a new home did.

    Parameters
    ----------
    seconds_to_result, seconds : float
        From its start to the first study's line, and to its end.
    images : int
    rate : float
        Images per second by its worker's log: from the first claim to the last store, so without the start.
    """

    seconds_to_result: float
    seconds: float
    images: int
    rate: float


def screen_folder(folder: Path, model: str, precision: str) -> Screened:
    """Run `bonescreen screen` on a folder of single images, in a new home.

    Raises
    ------
    EngineOutage
        It failed, or printed no result.
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BONESCREEN_")},
            "BONESCREEN_HOME": home,
            "BONESCREEN_MODEL": model,
            "BONESCREEN_PRECISION": precision,
            "BONESCREEN_QUIET_SECONDS": "0",
            "PYTHONUNBUFFERED": "1",
        }
        first = 0.0
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "bonescreen", "screen", "--layout", "flat", str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            for line in process.stdout or ():
                if not first and _RESULT.match(line):
                    first = time.perf_counter() - started
        seconds = time.perf_counter() - started
        log = (Path(home) / "logs" / "worker.log").read_text() if not process.returncode else ""
    tasks = [(int(images), float(spent)) for images, spent in _SUMMARY.findall(log)]
    worked = sum(spent for _, spent in tasks)
    if not first or not worked:
        raise EngineOutage(f"bonescreen screen ended with status {process.returncode} and without a result")
    images = sum(count for count, _ in tasks)
    return Screened(first, seconds, images, images / worked)
