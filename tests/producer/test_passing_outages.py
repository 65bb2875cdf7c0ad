"""What a scan makes of files that were away: it heals their failures, and takes no mount's images for gone at once."""

import os
from pathlib import Path

from db import ledger
from db.failures import list_failures
from db.run_queries import run_progress
from db.session import Database
from db.store import ImageOutcome
from producer.dry_run import dry_run
from producer.scan import scan_archive
from producer.source import Source
from tests.archives import as_plain_user, folder_for_others, png
from tests.clinics import Scan, put, studies
from tests.recount import kept_counts, recount
from tests.seeding import MODEL, scored
from xray.archives.files import read_image_file
from xray.errors import FileFault
from xray.vocabulary import Layout


def process(root: Path, database: Database) -> None:
    """Process what is to be done as a worker would that takes every failure for its file's own."""
    while (claim := ledger.claim_more(database, 1, "test", images=1000)) is not None:
        results = []
        for image in ledger.unprocessed_images(database, claim):
            try:
                read_image_file(root, image.path, expected=(image.size, image.mtime_ns))
                results.append(scored(image.image_id))
            except FileFault as fault:
                results.append(ImageOutcome(image.image_id, reason=fault.reason))
        assert ledger.finish(database, claim, results)


def failed(database: Database) -> dict[str, str]:
    return {row.image: row.reason for row in list_failures(database, 1)}


def test_a_file_that_was_away_while_it_was_to_be_screened_is_screened_after_the_next_scan(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for number in range(4):
        put(clinic, f"s{number}/{number}.png", png(number))
    scan(Layout.FOLDER)
    for number in (1, 2):
        (clinic / f"s{number}/{number}.png").rename(clinic / f"{number}.away")
    process(clinic, database)
    assert failed(database) == {"s1/1.png": "vanished", "s2/2.png": "vanished"}
    (clinic / "1.away").rename(clinic / "s1/1.png")
    plan = dry_run(database, "clinic", Source(clinic), MODEL.queue)
    assert (plan.processed, plan.unprocessed, plan.gone) == (2, 1, 1)
    assert scan().batches == 1
    assert kept_counts(database) == recount(database)
    process(clinic, database)
    assert failed(database) == {}
    assert run_progress(database, 1).state == "done"
    assert scan().batches == 0


def test_a_file_that_got_its_rights_is_screened_after_the_next_scan_and_one_without_is_not_tried_again(
    database: Database,
) -> None:
    with folder_for_others() as root:
        for number in range(3):
            put(root, f"s/{number}.png", png(number))
        for number in (1, 2):
            (root / f"s/{number}.png").chmod(0)

        def scan() -> int:
            with as_plain_user():
                return scan_archive(database, "clinic", Source(root, Layout.FOLDER), MODEL, batch_size=4).batches

        assert scan() == 1
        with as_plain_user():
            process(root, database)
        assert failed(database) == {"s/1.png": "unreadable", "s/2.png": "unreadable"}
        assert scan() == 0
        (root / "s/1.png").chmod(0o644)
        assert scan() == 1
        with as_plain_user():
            process(root, database)
        assert failed(database) == {"s/2.png": "unreadable"}


def test_a_pipe_in_a_files_place_and_a_broken_link_are_not_tried_again_by_each_scan(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "s/1.png", png(1))
    os.mkfifo(clinic / "s/2.png")
    (clinic / "s/3.png").symlink_to("nowhere.png")
    assert scan(Layout.FOLDER).batches == 1
    process(clinic, database)
    assert failed(database) == {"s/2.png": "unreadable", "s/3.png": "broken_link"}
    assert scan().batches == 0


def test_a_folder_that_is_suddenly_empty_keeps_its_images_until_a_second_scan_sees_it_empty(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for number in range(6):
        put(clinic, f"{'local' if number < 3 else 'mount'}/s{number}/1.png", png(number))
    scan(Layout.FOLDER)
    (clinic / "mount").rename(clinic.with_name("away"))
    (clinic / "mount").mkdir()
    first = scan()
    assert (first.found, first.gone, first.skipped) == (3, 0, {"emptied folder": 1})
    assert first.is_partial
    assert first.warnings == [
        "mount (emptied folder): mount it again, then scan again; if it was emptied on purpose, only scan again"
    ]
    assert len(studies(database)) == 6
    (clinic / "mount").rmdir()
    clinic.with_name("away").rename(clinic / "mount")
    back = scan()
    assert (back.found, back.gone, back.skipped, back.batches) == (6, 0, {}, 0)
    # An outage that was over counts no more: the folder must be seen empty twice in a row.
    (clinic / "mount").rename(clinic.with_name("away"))
    (clinic / "mount").mkdir()
    assert (scan().gone, scan().gone) == (0, 3)
    assert sorted(studies(database)) == ["local/s0", "local/s1", "local/s2"]
    assert scan().skipped == {}
    assert kept_counts(database) == recount(database)


def test_images_that_are_deleted_and_a_folder_that_is_removed_are_gone_at_once(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for number in range(6):
        put(clinic, f"p{number // 2}/s{number}/1.png", png(number))
    scan(Layout.FOLDER)
    (clinic / "p0/s0/1.png").unlink()
    (clinic / "p1").rename(clinic.with_name("removed"))
    report = scan()
    assert (report.gone, report.skipped) == (3, {})
    assert sorted(studies(database)) == ["p0/s1", "p2/s4", "p2/s5"]
