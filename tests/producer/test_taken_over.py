"""A scan whose process is too slow to renew its lease: whoever asked for it follows the process that took it over."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from db import scans
from db.run_queries import run_progress
from db.session import Database, Now
from db.tables import scans as scans_table
from producer.scan import finish_abandoned_scan, scan_archive
from producer.source import Source
from tests.archives import png
from tests.awaiting import await_that
from tests.clinics import put
from tests.seeding import MODEL
from xray.errors import UsageError

OTHER = "elsewhere:1"


@pytest.fixture
def root(clinic: Path) -> Path:
    for number in range(6):
        put(clinic, f"s{number}/1.png", png(number))
    return clinic


def expire(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(scans_table).values(lease_expires_at=Now() - 1))


def scan_slowly(database: Database, root: Path, meanwhile: Callable[[int], None]) -> tuple[int, int]:
    """Scan an archive; while the lease of the scan is expired, do something with the scan."""
    delayed = threading.Event()

    def progress(found: int) -> None:
        if not delayed.is_set():
            delayed.set()
            expire(database)
            (scan,) = scans.open_scans(database)
            meanwhile(scan.scan_id)

    report = scan_archive(database, "clinic", Source(root), MODEL, batch_size=2, progress=progress)
    return report.found, report.batches


def test_the_scan_is_followed_to_the_end_that_another_process_brings_it_to(root: Path, database: Database) -> None:
    finishing: list[threading.Thread] = []

    def taken() -> bool:
        return all(scan.holder == OTHER for scan in scans.open_scans(database))

    def another(scan_id: int) -> None:
        arguments = database, scan_id, Source(root), OTHER
        finishing.append(threading.Thread(target=finish_abandoned_scan, args=arguments))
        finishing[0].start()
        await_that(taken, 10, "the scan is taken over")

    assert scan_slowly(database, root, another) == (6, 3)
    finishing[0].join()
    assert scans.open_scans(database) == []
    assert run_progress(database, 1).images == 6


def test_if_the_other_process_dies_the_scan_is_taken_back(root: Path, database: Database) -> None:
    def another(scan_id: int) -> None:
        assert scans.take_over(database, scan_id, OTHER) is not None
        expiring = threading.Timer(1.0, expire, (database,))
        expiring.start()

    assert scan_slowly(database, root, another) == (6, 3)
    assert scans.open_scans(database) == []


def test_if_the_other_process_finds_nothing_the_user_is_told_so(root: Path, database: Database) -> None:
    def another(scan_id: int) -> None:
        for file in root.glob("*/*"):
            file.unlink()
        (root / "notes.txt").write_text("text")
        with pytest.raises(UsageError):
            finish_abandoned_scan(database, scan_id, Source(root), OTHER)

    with pytest.raises(UsageError, match="no image found"):
        scan_slowly(database, root, another)


def test_a_user_who_interrupts_a_scan_that_was_taken_over_is_obeyed(root: Path, database: Database) -> None:
    def another(scan_id: int) -> None:
        assert scans.take_over(database, scan_id, OTHER) is not None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_slowly(database, root, another)
    (open_scan,) = scans.open_scans(database)
    assert (open_scan.holder, open_scan.expired) == (OTHER, False)
