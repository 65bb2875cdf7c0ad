"""Scanning whole archives into the ledger."""

from pathlib import Path

import pytest

from bonescreen.bench.scanning import measure_scans
from db.session import Database
from producer import read_archive
from producer.scan import scan_archive
from producer.source import Source
from tests.archives import png
from tests.clinics import Scan, put
from tests.seeding import MODEL


def test_an_archive_of_200_000_images_is_scanned_and_scanned_again_in_less_than_250_mb() -> None:
    measured = measure_scans(200_000)
    first, again = measured["first scan"], measured["rescan"]
    # 782 full ones would do; each transaction that makes batches may end with one that is not full.
    assert first.images == 200_000
    assert 782 <= first.batches <= 786
    assert (again.images, again.batches) == (200_000, 0)
    assert max(first.peak_rss_mb, again.peak_rss_mb) < 250


def test_files_that_are_found_slowly_are_written_and_reported_before_a_group_is_full(
    clinic: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_archive, "GROUP_SECONDS", 0.0)
    for number in range(3):
        put(clinic, f"{number}.png", png(number))
    reported: list[int] = []
    scan_archive(database, "clinic", Source(clinic), MODEL, batch_size=4, progress=reported.append)
    assert reported == [1, 2, 3]


def test_bones_and_a_site_s_terms_in_mura_folders_are_the_parts_that_they_name(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for term in ("TIBIA", "HANDGELENK", "CHEST"):
        put(clinic, f"XR_{term}/patient1/study1_negative/image1.png", png(1))
    assert scan(site_terms={"HANDGELENK": "WRIST"}).body_parts == {"LEG": 1, "WRIST": 1, "CHEST": 1}
    assert scan().body_parts == {"LEG": 1, "HANDGELENK": 1, "CHEST": 1}
