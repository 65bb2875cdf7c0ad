"""How many images a second the producer scans, and its peak memory.

Makes an archive of empty files laid out like MURA, two or three images in a study, and scans it twice into a database:
first everything is new, then nothing. Each scan is a process of its own, so that its peak resident set is its own. The
time runs from `scan_archive`'s call to the closed scan, with its batches made; the archive was just written, so its
folders are in the page cache. Where other processes share the machine, compare the seconds on a CPU; they are those of
the producer, and not of a PostgreSQL server.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from db.migrate import upgrade
from db.runs import ModelVersion
from db.session import Database
from producer.scan import scan_archive
from producer.source import Source

BATCH_SIZE = 256

PARTS = ("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST")


@dataclass(frozen=True)
class ScanMeasurement:
    """One scan: what it found and made, its seconds, those of them on a processor, and the peak resident set."""

    images: int
    batches: int
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float

    @property
    def images_per_second(self) -> float:
        """Images that were found a second."""
        return self.images / self.seconds


def make_archive(root: Path, images: int) -> None:
    """Write `images` empty files as MURA has them: a patient has one or two studies of two or three images."""
    made = study = 0
    while made < images:
        patient = root / f"XR_{PARTS[study % 7]}" / f"patient{study // 7:06}"
        for number in range(1, 2 + study % 2):
            folder = patient / f"study{number}_{'negative' if study % 3 else 'positive'}"
            folder.mkdir(parents=True)
            for image in range(1, min(3 + study // 2 % 2, images - made + 1)):
                descriptor = os.open(folder / f"image{image}.png", os.O_WRONLY | os.O_CREAT)
                # Old enough that no scan waits for its writer.
                os.utime(descriptor, (1_600_000_000, 1_600_000_000 + made % 1_000_000))
                os.close(descriptor)
                made += 1
        study += 1


def measure_scan(root: Path, database_url: str) -> ScanMeasurement:
    """Scan an archive in a new process; the database keeps what it finds, so that a second call is a rescan."""
    command = [sys.executable, "-P", "-m", "bonescreen.bench.scanning", str(root), database_url]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return ScanMeasurement(**json.loads(done.stdout))


def measure_scans(images: int, database_url: str | None = None) -> dict[str, ScanMeasurement]:
    """Make an archive of so many images; return the measurements of its first scan and of a rescan.

    Parameters
    ----------
    images : int
    database_url : str, optional
        An empty database; by default a new SQLite file.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "archive"
        make_archive(root, images)
        url = database_url or f"sqlite:///{folder}/database.db"
        return {"first scan": measure_scan(root, url), "rescan": measure_scan(root, url)}


def _scan(root: Path, database_url: str) -> ScanMeasurement:
    database = Database(database_url)
    upgrade(database)
    model = ModelVersion("stub", "1", "0" * 64, "fp32", "fracture", 0.5, 0.5, PARTS, ("DX",), "screen.stub.fp32")
    started, cpu_started = time.perf_counter(), time.process_time()
    report = scan_archive(database, "benchmark", Source(root), model, batch_size=BATCH_SIZE)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return ScanMeasurement(report.found, report.batches, round(seconds, 3), round(cpu_seconds, 3), _peak_rss_mb())


def _peak_rss_mb() -> float:
    # Not getrusage, whose peak includes that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(int(kilobytes) / 1024, 1)


if __name__ == "__main__":
    print(json.dumps(asdict(_scan(Path(sys.argv[1]), sys.argv[2]))))
