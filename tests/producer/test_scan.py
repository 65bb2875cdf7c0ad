"""Scanning whole archives into the ledger."""

from pathlib import Path

import pytest
from pydicom import uid

from bonescreen.bench.scanning import measure_scans
from db.queries import find_study
from db.session import Database
from producer import read_archive
from producer.scan import scan_archive
from producer.source import Source
from tests.archives import png
from tests.clinics import Scan, dicom_image, put
from tests.seeding import MODEL
from xray.vocabulary import Layout


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


@pytest.mark.parametrize("layout", [Layout.FOLDER, Layout.MANIFEST])
def test_headers_say_what_paths_and_a_manifest_do_not(
    clinic: Path, database: Database, scan: Scan, layout: Layout
) -> None:
    put(clinic, "s1/1.dcm", dicom_image(1, SOPClassUID=uid.XRayAngiographicImageStorage, Modality="XA"))
    put(clinic, "s1/2.dcm", dicom_image(2, BodyPartExamined="CHEST", StudyInstanceUID="1.2.4"))
    put(clinic, "s2/1.dcm", dicom_image(3, PatientID="1", PresentationIntentType="FOR PROCESSING"))
    put(clinic, "s2/2.dcm", dicom_image(4, PatientID="2"))
    rows = ["s1,s1/1.dcm", "s1,s1/2.dcm", "s2,s2/1.dcm", "s2,s2/2.dcm"]
    put(clinic, "manifest.csv", "\n".join(["study,image", *rows]).encode())
    for _ in range(2):
        report = scan(layout, keep=frozenset({"date"}))
        assert (report.modalities, report.body_parts) == ({"XA": 1, "CR": 3}, {"CHEST": 1})
        assert report.of_several_patients == ["s2"]
    (study,) = find_study(database, "s2")
    assert [image.intent for image in study.images] == ["FOR PROCESSING", None]


def test_a_manifest_s_columns_come_before_headers_and_one_that_it_no_longer_has_does_not_stay(
    clinic: Path, scan: Scan
) -> None:
    put(clinic, "1.dcm", dicom_image(1, BodyPartExamined="CHEST"))
    put(clinic, "manifest.csv", b"study,image,body_part\na,1.dcm,HAND\n")
    assert scan().body_parts == {"HAND": 1}
    put(clinic, "manifest.csv", b"study,image,body_part\na,1.dcm,\n")
    assert scan().body_parts == {"CHEST": 1}
