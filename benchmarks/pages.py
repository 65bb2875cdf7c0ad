"""Measure how long the web pages take on a large database, and whether their process grows.

    python -m benchmarks.pages sqlite:////data/worklist.db

The database is one that `python -m benchmarks.worklist` has seeded. A real `bonescreen serve` is asked over HTTP on
loopback, one request at a time: first each page in turn, then the memory of its process is taken before and after many
requests of all kinds. Prints median and 95th percentile in milliseconds, and megabytes.
"""

import argparse
import http.client
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.worklist import OTHER_RUN, RUN, filters
from bonescreen.bench.machine import describe_machine
from db.run_queries import run_summary
from db.session import Database
from db.worklist_search import WorklistFilter

START_SECONDS = 60.0
WARM_UP = 200
"""Requests before memory is taken: caches and pools are full then."""


@contextmanager
def serving(url: str) -> Iterator[tuple[int, int]]:
    """Run `bonescreen serve` on a database within the block; yield its process id and port."""
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "BONESCREEN_HOME": home, "BONESCREEN_DATABASE_URL": url, "PYTHONUNBUFFERED": "1"}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "bonescreen", "serve", "--port", str(port)]
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            # Its line with the address.
            process.stdout.readline()
            yield process.pid, port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)


def pages(images: int, studies: int) -> dict[str, Iterator[str]]:
    """Return the addresses of each kind of page, without end."""
    chosen = random.Random(1)
    found = {
        f"worklist: {name}": _repeat(f"/runs/{wanted.run}?{_query(wanted)}")
        for name, wanted in filters(images, studies).items()
        if wanted.run == RUN
    }
    found["study"] = (f"/runs/{RUN}/studies/{chosen.randint(1, studies)}" for _ in iter(int, 1))
    filtered = _query(WorklistFilter(RUN, body_part="HAND", flagged=True))
    found["study, of a filtered worklist"] = (
        f"/runs/{RUN}/studies/{chosen.randint(1, studies)}?{filtered}" for _ in iter(int, 1)
    )
    found["runs"] = _repeat("/")
    found["comparison"] = _repeat(f"/runs/{RUN}/compare/{OTHER_RUN}")
    return found


def _repeat(path: str) -> Iterator[str]:
    return (path for _ in iter(int, 1))


def _query(wanted: WorklistFilter) -> str:
    values = {name: value for name, value in vars(wanted).items() if name != "run" and value not in (None, False)}
    if wanted.reviewed is False:
        values["reviewed"] = False
    if "since" in values:
        values["since"] = time.strftime("%FT%T", time.localtime(float(values["since"])))
    return urlencode({name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()})


def ask(port: int, path: str) -> float:
    """Ask for a page; return the milliseconds until all of it is here."""
    started = time.perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {body[:200]!r}")
    return (time.perf_counter() - started) * 1000


def resident_megabytes(process: int) -> float:
    """Return the resident memory of a process."""
    pages_held = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages_held * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of a database that benchmarks.worklist has seeded")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--requests", type=int, default=2_000, help="between the two readings of the memory")
    chosen = parser.parse_args(arguments)
    with closing(Database(chosen.url)) as database:
        summary = run_summary(database, RUN)
        dialect = database.dialect
    machine = describe_machine()
    print(f"{dialect}, {summary.images:,} images, {summary.studies:,} studies, {machine['processor']}, ", end="")
    print(f"{machine['cpus']} CPUs, {time.strftime('%F')}")
    with serving(chosen.url) as (process, port):
        kinds = pages(summary.images, summary.studies)
        for name, paths in kinds.items():
            times = sorted(ask(port, path) for path in islice(paths, chosen.repeats))
            p95 = times[max(0, -(-len(times) * 95 // 100) - 1)]
            print(f"{name:44} {statistics.median(times):7.1f} {p95:7.1f}", flush=True)
        quick = [paths for name, paths in kinds.items() if name != "comparison"]
        for number in range(WARM_UP):
            ask(port, next(quick[number % len(quick)]))
        before = resident_megabytes(process)
        for number in range(chosen.requests):
            ask(port, next(quick[number % len(quick)]))
        print(f"memory: {before:.0f} MB, and {resident_megabytes(process):.0f} MB {chosen.requests:,} requests later")


if __name__ == "__main__":
    main()
