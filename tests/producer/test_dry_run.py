"""A dry run counts what a scan would do, and changes nothing."""

import os
from pathlib import Path

from db.run_queries import list_runs
from db.session import Database
from producer.dry_run import dry_run
from producer.scan import scan_archive
from producer.scan_summary import DryRunReport
from producer.source import Source
from tests.archives import png
from tests.clinics import dicom_image
from tests.seeding import MODEL, finish_batches


def counts(report: DryRunReport) -> tuple[int, int, int, int, int, int]:
    return report.found, report.new, report.changed, report.unprocessed, report.processed, report.gone


def test_a_dry_run_counts_new_changed_unprocessed_processed_and_gone_images_and_changes_nothing(
    database: Database, tmp_path: Path
) -> None:
    root = tmp_path / "clinic"
    root.mkdir()
    for number in range(6):
        (root / f"{number}.png").write_bytes(png(number))

    def counted() -> DryRunReport:
        return dry_run(database, "clinic", Source(root), MODEL.queue)

    assert counts(counted()) == (6, 6, 0, 0, 0, 0)
    assert list_runs(database) == []
    scan_archive(database, "clinic", Source(root), MODEL, batch_size=2)
    assert counts(counted()) == (6, 0, 0, 6, 0, 0)
    finish_batches(database, 1)
    assert counts(counted()) == (6, 0, 0, 4, 2, 0)
    finish_batches(database, 2)
    (root / "0.png").unlink()
    os.utime(root / "1.png", ns=(1, 1))
    (root / "new.png").write_bytes(png(9))
    (root / "notes.txt").write_text("text")
    report = counted()
    assert counts(report) == (6, 1, 1, 0, 4, 1)
    assert report.skipped == {"not an image": 1}
    assert list_runs(database)[0].images == 6
    assert dry_run(database, "clinic", Source(root), "another queue").unprocessed == 4


def test_a_dry_run_reads_headers_as_the_next_scan_would(database: Database, clinic: Path) -> None:
    (clinic / "1.dcm").write_bytes(dicom_image(BodyPartExamined="HANDGELENK"))
    scan_archive(database, "clinic", Source(clinic), MODEL, batch_size=2)
    mapped = Source(clinic, site_terms={"HANDGELENK": "WRIST"})
    assert dry_run(database, "clinic", Source(clinic), MODEL.queue).body_parts == {"HANDGELENK": 1}
    assert dry_run(database, "clinic", mapped, MODEL.queue).body_parts == {"WRIST": 1}


def test_a_dry_run_needs_no_database(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    assert counts(dry_run(None, "clinic", Source(tmp_path), MODEL.queue)) == (1, 1, 0, 0, 0, 0)
