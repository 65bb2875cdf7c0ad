"""Measure the memory and time of a scan of many files.

    python -m benchmarks.scan_memory --files 200000

Makes an archive of tiny files in studies of four, scans it into a new SQLite database in another process, and prints
the number of files, the seconds, and the peak resident set of that process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make_archive(root: Path, files: int) -> None:
    """Write `files` small files: four in a study, a thousand studies in a folder."""
    for number in range(files):
        study = root / f"group{number // 4000:04}" / f"study{number // 4:06}"
        if number % 4 == 0:
            study.mkdir(parents=True)
        (study / f"image{number % 4}.png").write_bytes(b"%d" % number)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--flat", action="store_true", help="all files in one folder")
    chosen = parser.parse_args()
    files, flat = chosen.files, chosen.flat
    with tempfile.TemporaryDirectory() as folder:
        root, home = Path(folder) / "archive", Path(folder) / "home"
        root.mkdir()
        if flat:
            for number in range(files):
                (root / f"image{number:07}.png").write_bytes(b"%d" % number)
        else:
            make_archive(root, files)
        started = time.monotonic()
        command = [sys.executable, "-m", "bonescreen", "enqueue", str(root)]
        process = subprocess.Popen(command, env={**os.environ, "BONESCREEN_HOME": str(home)})
        _, status, usage = os.wait4(process.pid, 0)
        report = {
            "files": files,
            "flat": flat,
            "exit": os.waitstatus_to_exitcode(status),
            "seconds": round(time.monotonic() - started, 1),
            "peak_rss_mb": round(usage.ru_maxrss / 1024, 1),
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
