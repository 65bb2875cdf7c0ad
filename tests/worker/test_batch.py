"""A batch's failures: those of its files are stored, those of a folder or a device that is away are an outage."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from db import ledger
from db.failures import list_failures
from db.run_queries import run_progress
from db.session import Database
from db.store import ImageOutcome
from producer.scan import scan_archive
from producer.source import Source
from tests.archives import png
from tests.awaiting import await_that
from tests.seeding import MODEL, scored
from tests.worker.blocked_files import blocked
from worker.batch import ClaimedBatch
from worker.watchdog import slow_images
from xray.archives.files import read_image_file
from xray.errors import ArchiveOutage, FileFault
from xray.settings import read_settings
from xray.vocabulary import Reason

Screen = Callable[[int], str | None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive of two folders with four images each, the second of which might be a mount."""
    folder = tmp_path / "clinic"
    for number in range(8):
        file = folder / ("local" if number < 4 else "mount") / f"s{number // 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    return folder


@pytest.fixture
def screen(database: Database, root: Path, tmp_path: Path) -> Screen:
    """Process a batch as a worker does, apart from the network; returns the outage if there is one."""
    settings = read_settings({"BONESCREEN_HOME": str(tmp_path), "BONESCREEN_ARCHIVES": f"clinic={root}"})

    def screen_batch(batch_id: int) -> str | None:
        claim = ledger.claim_more(database, 1, "test", images=1000)
        assert claim is not None
        assert claim.batch_id == batch_id
        batch = ClaimedBatch(database, settings, claim, threading.Event())
        for image in batch.waiting:
            try:
                read_image_file(root, image.path, expected=(image.size, image.mtime_ns))
                batch.add([scored(image.image_id)])
            except FileFault as fault:
                batch.add([ImageOutcome(image.image_id, reason=fault.reason)])
        try:
            batch.finish()
        except ArchiveOutage as outage:
            batch.store()
            ledger.release_claim(database, claim)
            return str(outage)
        return None

    return screen_batch


def scan(database: Database, root: Path, batch_size: int) -> int:
    return scan_archive(database, "clinic", Source(root), MODEL, batch_size=batch_size).batches


def unmount(root: Path) -> Path:
    """Leave an empty folder in the mount's place; return where its files are."""
    (root / "mount").rename(root.with_name("away"))
    (root / "mount").mkdir()
    return root.with_name("away")


def mount(root: Path, away: Path) -> None:
    (root / "mount").rmdir()
    away.rename(root / "mount")


def failed(database: Database) -> set[str]:
    return {row.reason for row in list_failures(database, 1)}


def test_a_mount_that_is_away_below_the_root_is_an_outage_for_its_images_and_for_no_others(
    database: Database, root: Path, screen: Screen
) -> None:
    scan(database, root, 8)
    away = unmount(root)
    assert "the folder mount of clinic held images and is empty: is it mounted?" in (screen(1) or "")
    assert failed(database) == set()
    assert run_progress(database, 1).processed == 4
    mount(root, away)
    assert screen(1) is None
    assert run_progress(database, 1).processed == 8
    assert failed(database) == set()


def test_what_can_be_read_elsewhere_does_not_make_a_folders_outage_its_files_fault(
    database: Database, root: Path, screen: Screen
) -> None:
    scan(database, root, 2)
    assert [screen(batch) for batch in (1, 2, 3)] == [None, None, None]
    for file in (root / "mount").glob("*/*"):
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 3600 * 10**9))
    assert "an image of clinic is changed, and mount/s2/5.png, which was read before, cannot" in (screen(4) or "")
    assert failed(database) == set()


def test_a_file_that_is_missing_beside_one_that_can_be_read_fails(
    database: Database, root: Path, screen: Screen
) -> None:
    scan(database, root, 2)
    assert screen(1) is None
    (root / "mount/s2/4.png").unlink()
    (root / "mount/s3/6.png").unlink()
    assert [screen(batch) for batch in (2, 3, 4)] == [None, None, None]
    assert [row.reason for row in list_failures(database, 1)] == [Reason.VANISHED, Reason.VANISHED]


def test_a_folder_that_was_removed_with_its_images_does_not_keep_a_run_open(
    database: Database, root: Path, screen: Screen
) -> None:
    scan(database, root, 2)
    assert [screen(batch) for batch in (1, 2, 3)] == [None, None, None]
    for number in (6, 7):
        (root / f"mount/s3/{number}.png").unlink()
    (root / "mount/s3").rmdir()
    assert screen(4) is None
    assert [row.reason for row in list_failures(database, 1)] == [Reason.VANISHED, Reason.VANISHED]


def test_a_run_waits_for_an_emptied_folder_until_a_second_scan_sees_it_empty(
    database: Database, root: Path, screen: Screen
) -> None:
    scan(database, root, 8)
    unmount(root)
    assert screen(1) is not None
    scan(database, root, 8)
    assert screen(1) is not None
    scan(database, root, 8)
    assert screen(1) is None
    assert run_progress(database, 1).state == "done"
    assert failed(database) == set()


def claimed(database: Database, root: Path) -> ClaimedBatch:
    settings = read_settings({"BONESCREEN_HOME": str(root.parent), "BONESCREEN_ARCHIVES": f"clinic={root}"})
    claim = ledger.claim_more(database, 1, "test", images=1000)
    assert claim is not None
    return ClaimedBatch(database, settings, claim, threading.Event())


def test_whether_a_mount_answers_is_asked_of_the_mount_and_not_of_what_was_read_elsewhere(
    database: Database, root: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.batch.ANSWER_SECONDS", 1.0)
    scan(database, root, 4)
    assert screen(1) is None
    batch = claimed(database, root)
    hung = batch.waiting[0]
    with blocked(sorted((root / "mount").glob("*/*"))):
        assert not batch.archive_responds(hung, [hung])
    with blocked([root / hung.path]):
        assert batch.archive_responds(hung, [hung])


def test_the_watchdog_sees_a_batch_that_waits_for_storage_when_it_looks_why_its_images_failed(
    database: Database, root: Path, screen: Screen
) -> None:
    scan(database, root, 2)
    assert [screen(batch) for batch in (1, 2, 3)] == [None, None, None]
    batch = claimed(database, root)
    batch.add([ImageOutcome(image.image_id, reason=Reason.CHANGED) for image in batch.waiting])
    finishing = threading.Thread(target=batch.finish)
    with blocked(sorted((root / "mount/s2").glob("*"))):
        finishing.start()
        await_that(lambda: slow_images(0.0), 20, "it is seen", patience=1)
    finishing.join()
