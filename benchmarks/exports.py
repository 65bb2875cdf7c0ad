"""Time and peak memory of `bonescreen results` in each format, of a million studies.

    python -m benchmarks.exports [--studies 1000000] [--folder FOLDER]

An embedded database (SQLite) gets a run of studies of one image each, and each format is written in a process of its
own, of a thousand rows and then of all. The peak is the process's largest resident set (``VmHWM`` of Linux).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from time import monotonic

from bonescreen.exports.formats import Format
from tests.ledgers import embedded
from tests.seeding import fill_with_results

SCRIPT = """
import sys
from bonescreen.cli import main
try: main(sys.argv[1:])
except SystemExit as left: assert not left.code
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


def export(home: Path, form: Format, limit: int) -> tuple[float, float, int]:
    """Write results in a process of its own; return seconds, its peak in MB, and the file's bytes."""
    output = home / f"results.{form}"
    options = ["results", "--format", form, "-o", str(output), "--limit", str(limit)]
    started = monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *options],
        env={**os.environ, "BONESCREEN_HOME": str(home)},
        check=True,
        stdout=subprocess.PIPE,
    )
    return monotonic() - started, int(done.stdout) / 1000, output.stat().st_size


def main() -> None:
    """Print a table of the formats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="Where the database and the exports are made; 2 GB for a million.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        home = Path(folder)
        database = embedded(home)
        fill_with_results(database, arguments.studies)
        database.close()
        print(f"{arguments.studies:,} studies, {os.cpu_count()} CPUs, {date.today().isoformat()}\n")
        print("| format | seconds | peak, 1,000 rows | peak, all rows | file |\n|---|---|---|---|---|")
        for form in (form for form in Format if form is not Format.TABLE):
            _, before, _ = export(home, form, 1000)
            seconds, peak, size = export(home, form, arguments.studies)
            print(f"| {form} | {seconds:.0f} | {before:.0f} MB | {peak:.0f} MB | {size / 1e6:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
