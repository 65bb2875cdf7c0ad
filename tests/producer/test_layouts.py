"""Archives of DICOM files and of manifests, scanned into the ledger, and again when they have grown."""

import io
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from sqlalchemy import select

from db import scans
from db.known import pseudonym_key_mark
from db.queries import ResultFilter, find_study, results
from db.run_queries import list_runs, run_summary
from db.session import Database
from db.tables import archives, passed_over
from producer.find import Source
from producer.plan import plan_archive
from producer.report import ScanReport
from producer.scan import finish_abandoned_scan, scan_archive
from tests.archives import png
from tests.containers import write_zip
from tests.dicoms import dicom
from tests.seeding import MODEL, finish_sent
from xray.errors import UsageError
from xray.studies import Layout

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)
KEY = b"a key that nobody guesses"
OTHER_KEY = b"another key that nobody guesses"


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    folder = tmp_path / "clinic"
    folder.mkdir()
    return folder


Scan = Callable[..., ScanReport]


@pytest.fixture
def scan(database: Database, clinic: Path) -> Scan:
    """Scan the clinic, whatever layout it shows."""

    def again(layout: Layout = Layout.AUTO, key: bytes | None = None) -> ScanReport:
        return scan_archive(database, "clinic", Source(clinic, layout, pseudonym_key=key), MODEL, batch_size=4)

    return again


def put(clinic: Path, path: str, data: bytes) -> None:
    file = clinic / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def swap(clinic: Path, path: str, data: bytes) -> None:
    """Replace a file so that nobody notices who does not open it."""
    file = clinic / path
    before = file.stat()
    assert before.st_size == len(data)
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def film(number: int = 0, **elements: object) -> bytes:
    return dicom(PIXELS + np.uint8(number), **elements)


def ct() -> bytes:
    return film(SOPClassUID=uid.CTImageStorage, Modality="CT")


def studies(database: Database) -> dict[str, int]:
    return {row.study: row.images for row in results(database, ResultFilter())}


def test_a_dicom_study_scattered_over_folders_is_one_and_files_of_one_instance_uid_stay_apart(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "a/IM0001", film(1))
    put(clinic, "b/deep/er/2.dcm", film(2))
    put(clinic, "c.dcm", film(3, StudyInstanceUID="1.2.9"))
    report = scan()
    assert report.layout is Layout.DICOM
    assert studies(database) == {"1.2.3": 2, "1.2.9": 1}


def test_what_is_no_radiograph_is_passed_over_by_what_it_is(clinic: Path, scan: Scan) -> None:
    put(clinic, "film.dcm", film())
    for number in range(3):
        put(clinic, f"ct/{number}", ct())
    put(clinic, "cine.dcm", film(NumberOfFrames=2, SOPClassUID=uid.XRayAngiographicImageStorage, Modality="XA"))
    put(clinic, "notes.txt", b"text")
    put(clinic, "preview.png", png(1))
    report = scan()
    assert report.found == 1
    assert report.skipped == {
        "CT Image Storage": 3,
        "multi-frame DICOM": 1,
        "not an image": 1,
        "outside the layout": 1,
    }
    assert sorted(report.look_at) == ["cine.dcm (multi-frame DICOM)", "preview.png (outside the layout)"]


def test_a_dicom_file_that_is_damaged_or_has_no_study_is_an_image_of_its_own(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "film.dcm", film())
    put(clinic, "cut.dcm", film()[:300])
    put(clinic, "empty.dcm", b"")
    put(clinic, "nowhere.dcm", film(1, StudyInstanceUID=None))
    scan()
    assert studies(database) == {"1.2.3": 1, "cut.dcm": 1, "empty.dcm": 1, "nowhere.dcm": 1}


def test_a_grown_archive_has_only_its_new_files_opened(clinic: Path, database: Database, scan: Scan) -> None:
    put(clinic, "1.dcm", film(1))
    put(clinic, "ct.dcm", ct())
    put(clinic, "notes", bytes(len(film())))
    assert scan(Layout.DICOM).batches == 1
    swap(clinic, "1.dcm", film(1, StudyInstanceUID="1.2.7"))
    swap(clinic, "ct.dcm", film(SOPClassUID=uid.CTImageStorage, Modality="CR"))
    swap(clinic, "notes", film())
    put(clinic, "2.dcm", film(2))
    report = scan()
    assert report.skipped == {"CT Image Storage": 1, "not an image": 1}
    assert studies(database) == {"1.2.3": 2}
    put(clinic, "ct.dcm", film(3, StudyInstanceUID="1.2.9", PatientComments="longer"))
    scan()
    assert studies(database) == {"1.2.3": 2, "1.2.9": 1}


def test_what_a_header_tells_is_kept_and_of_the_patient_a_keyed_hash_alone(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", film(BodyPartExamined="HAND", ViewPosition="PA", ImageLaterality="L"))
    scan(key=KEY)
    (study,) = find_study(database, "1.2.3")
    (image,) = study.images
    assert (image.body_part, image.view, image.laterality, image.series) == ("HAND", "PA", "L", "1.2.3.1")
    assert study.row.body_part == "HAND"
    assert study.patient is not None
    assert len(study.patient) == 32
    assert "4711" not in study.patient


def test_another_pseudonym_key_has_all_headers_read_again_and_none_leaves_patients_as_they_are(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", film(1))

    def patient() -> str | None:
        return find_study(database, "1.2.3")[0].patient

    scan()
    assert patient() is None
    scan(key=KEY)
    first = patient()
    assert first is not None
    swap(clinic, "1.dcm", film(1, PatientID="1147"))
    scan(key=KEY)
    put(clinic, "2.dcm", film(2))
    scan()
    assert patient() == first
    scan(key=OTHER_KEY)
    assert patient() not in (None, first)
    with database.read() as connection:
        archive_id = connection.execute(select(archives.c.id)).scalar_one()
    mark = pseudonym_key_mark(database, archive_id)
    assert mark is not None
    assert OTHER_KEY.decode() not in mark


def test_a_file_that_was_no_radiograph_is_remembered_by_its_path_size_and_time(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", film(1))
    put(clinic, "ct.dcm", ct())
    scan()
    with database.read() as connection:
        (row,) = connection.execute(select(passed_over)).all()
    assert (row.path, row.size, row.reason) == ("ct.dcm", len(ct()), "CT Image Storage")


def test_an_archive_without_any_radiograph_is_refused_and_may_be_scanned_when_it_has_one(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "ct.dcm", ct())
    put(clinic, "preview.png", png(1))
    with pytest.raises(UsageError, match=r"passed over: 1 .*another --layout may fit"):
        scan(Layout.DICOM)
    assert list_runs(database) == []
    put(clinic, "film.dcm", film())
    assert scan(Layout.DICOM).found == 1


def test_what_one_image_of_a_study_tells_holds_for_it_though_another_is_silent(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", film(1))
    put(clinic, "2.dcm", film(2, PatientID=None))
    scan(key=KEY)
    assert find_study(database, "1.2.3")[0].patient is not None
    for number in (1, 2):
        put(clinic, f"{number}.png", png(number))
    (clinic / "manifest.csv").write_text("study,image,label\ns,1.png,positive\ns,2.png,\n")
    scan_archive(database, "listed", Source(clinic), MODEL, batch_size=4)
    assert find_study(database, "s")[0].row.human_label == "positive"


def test_patients_of_films_that_were_scanned_without_the_key_are_told_once_it_is_back(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", film(1))
    scan(key=KEY)
    put(clinic, "2.dcm", film(2, StudyInstanceUID="1.2.9", PatientID="8"))
    scan()
    assert find_study(database, "1.2.9")[0].patient is None
    scan(key=KEY)
    assert find_study(database, "1.2.9")[0].patient is not None


def test_a_name_that_is_no_utf_8_in_a_tar_is_passed_over(clinic: Path, scan: Scan) -> None:
    put(clinic, "1.dcm", film(1))
    with tarfile.open(clinic / "films.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        about = tarfile.TarInfo("f\u00fcr.dcm")
        about.size = len(film(2))
        tar.addfile(about, io.BytesIO(film(2)))
    report = scan(Layout.DICOM)
    assert (report.found, report.skipped) == (1, {"name not UTF-8": 1})


def test_what_a_scan_cannot_look_at_is_not_taken_for_gone(clinic: Path, database: Database, scan: Scan) -> None:
    put(clinic, "loose.png", png(1))
    put(clinic, "growing.png", png(2))
    write_zip(clinic / "films.zip", {"s/1.png": png(3), "s/2.png": png(4)})
    run = scan(Layout.FOLDER).run_id
    finish_sent(database)
    before = studies(database)
    container = (clinic / "films.zip").read_bytes()
    (clinic / "films.zip").write_bytes(container[:-30])
    ended = threading.Event()

    def write() -> None:
        with (clinic / "growing.png").open("ab", buffering=0) as file:
            while not ended.wait(0.05):
                file.write(b"more")

    writer = threading.Thread(target=write)
    writer.start()
    os.utime(clinic / "films.zip", (1, 1))
    source = Source(clinic, quiet_seconds=1.0)
    plan = plan_archive(database, "clinic", source, MODEL.digest)
    report = scan_archive(database, "clinic", source, MODEL, batch_size=4)
    ended.set()
    writer.join()
    assert report.skipped == {"damaged container": 1, "still being written": 1}
    assert report.not_looked_at == {"films.zip", "growing.png"}
    assert (plan.gone, report.gone) == (0, 0)
    assert studies(database) == before
    assert {row.status for row in results(database, ResultFilter(run=run))} == {"scored"}
    (clinic / "films.zip").unlink()
    assert scan().gone == 2


def test_a_manifest_makes_studies_across_folders_with_what_it_says_of_them(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "a/1.png", png(1))
    put(clinic, "b/2.dcm", film())
    put(clinic, "unlisted.png", png(3))
    (clinic / "manifest.csv").write_text(
        "study,image,label,body_part,view,patient\n"
        "wrist 7,a/1.png,positive,WRIST,PA,4711\nwrist 7,b/2.dcm,positive,WRIST,LL,4711\n"
    )
    report = scan(key=KEY)
    assert (report.layout, report.found) == (Layout.MANIFEST, 2)
    (study,) = find_study(database, "wrist 7")
    assert (study.row.body_part, study.row.human_label) == ("WRIST", "positive")
    assert [image.view for image in study.images] == ["PA", "LL"]
    assert study.patient is not None


def test_a_corrected_manifest_moves_an_image_to_its_study(clinic: Path, database: Database, scan: Scan) -> None:
    put(clinic, "1.png", png(1))
    put(clinic, "2.png", png(2))
    manifest = clinic / "manifest.csv"
    manifest.write_text("study,image\na,1.png\na,2.png\n")
    scan()
    manifest.write_text("study,image\na,1.png\nb,2.png\n")
    scan()
    assert studies(database) == {"a": 1, "b": 1}


def test_an_image_that_is_listed_and_not_there_is_an_image_and_is_named(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.png", png(1))
    (clinic / "manifest.csv").write_text("study,image\ns,1.png\ns,lost.png\n")
    report = scan()
    assert (report.found, report.absent) == (2, 1)
    assert report.look_at == ["lost.png (listed in manifest.csv, and not there)"]
    assert studies(database) == {"s": 2}
    put(clinic, "lost.png", png(2))
    report = scan()
    assert (report.found, report.absent) == (2, 0)
    assert studies(database) == {"s": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("study,image\ns,1.png\nt,1.png\n", "lists '1.png' on lines 2 and 3"),
        ("study,image\ns,1.png\ns,./1.png\n", "lists '1.png' on lines 2 and 3"),
        ("study,image,label\ns,1.png,positive\ns,2.png,negative\n", "'s' positive on line 2 and negative on line 3"),
        ("study,image\ns,../1.png\n", "line 2: the image '../1.png' is not below"),
        ("study,image\ns,x/1.png\ns,x/2.png\n", "none of the 2 images that manifest.csv lists is in"),
        ("study,image\n", "lists no image"),
        ("", "line 1: there is no column 'study'"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_its_lines_and_nothing_is_made(
    clinic: Path, database: Database, scan: Scan, text: str, told: str
) -> None:
    put(clinic, "1.png", png(1))
    put(clinic, "2.png", png(2))
    (clinic / "manifest.csv").write_text(text)
    with pytest.raises(UsageError) as caught:
        scan()
    assert told in str(caught.value)
    assert list_runs(database) == []
    if "none of" not in told:
        with pytest.raises(UsageError) as planned:
            plan_archive(database, "clinic", Source(clinic), MODEL.digest)
        assert str(planned.value) == str(caught.value)


def test_the_layout_manifest_without_a_manifest_is_refused_with_what_it_would_hold(clinic: Path, scan: Scan) -> None:
    put(clinic, "1.png", png(1))
    with pytest.raises(UsageError, match=r"needs a manifest\.csv .* study,image\[,label"):
        scan(Layout.MANIFEST)


def test_a_scan_that_is_taken_over_holds_its_manifest_to_the_quiet_period_too(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for name in ("1.png", "2.png"):
        put(clinic, name, png(int(name[0])))
    manifest = clinic / "manifest.csv"
    manifest.write_text("study,image\ns,1.png\ns,2.png\n")
    run = scan().run_id
    held = scans.begin_scan(database, run, Layout.MANIFEST, "elsewhere:1")
    assert held is not None
    scans.release_scan(database, held)
    manifest.write_text("study,image\ns,1.png\n")
    growing = threading.Timer(0.5, manifest.write_text, ["study,image\ns,1.png\ns,2.png\n"])
    growing.start()
    with pytest.raises(UsageError, match="still being written"):
        finish_abandoned_scan(database, held.scan_id, Source(clinic, quiet_seconds=1.0), "me")
    growing.join()
    assert studies(database) == {"s": 2}


def test_a_manifest_that_has_gone_wrong_loses_nothing_of_what_was_scanned(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.png", png(1))
    (clinic / "manifest.csv").write_text("study,image\ns,1.png\n")
    run = scan().run_id
    (clinic / "manifest.csv").write_text("study,image\ns,1.png\nt,1.png\n")
    with pytest.raises(UsageError):
        scan()
    assert (run_summary(database, run).images, studies(database)) == (1, {"s": 1})
