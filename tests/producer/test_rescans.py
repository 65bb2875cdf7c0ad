"""Archives that are scanned into the database, mostly of DICOM files, and scanned again after they changed."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from pydicom import uid
from sqlalchemy import select, update

from db.queries import ResultFilter, find_study, results
from db.run_queries import list_runs
from db.scan_cache import header_marks
from db.session import Database
from db.tables import archives, contents, outcomes, skipped_files
from db.tables import images as images_table
from producer.dry_run import dry_run
from producer.scan import scan_archive
from producer.source import Source, Wait
from tests.archives import png
from tests.clinics import KEY, OTHER_KEY, Scan, ct, dicom_image, put, studies, swap
from tests.containers import write_zip
from tests.recount import kept_counts, recount
from tests.seeding import MODEL, finish_batches
from xray.archives.files import content_digest
from xray.errors import UsageError
from xray.vocabulary import Layout


def test_a_dicom_study_in_several_folders_is_one_study_and_equal_instance_uids_are_separate_images(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "a/IM0001", dicom_image(1))
    put(clinic, "b/deep/er/2.dcm", dicom_image(2))
    put(clinic, "c.dcm", dicom_image(3, StudyInstanceUID="1.2.9"))
    report = scan()
    assert report.layout is Layout.DICOM
    assert studies(database) == {"1.2.3": 2, "1.2.9": 1}


def test_dicom_files_that_are_not_radiographs_are_skipped_and_counted_by_class(clinic: Path, scan: Scan) -> None:
    put(clinic, "image.dcm", dicom_image())
    for number in range(3):
        put(clinic, f"ct/{number}", ct())
    put(clinic, "cine.dcm", dicom_image(NumberOfFrames=2, SOPClassUID=uid.XRayAngiographicImageStorage, Modality="XA"))
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
    assert sorted(report.warnings) == ["cine.dcm (multi-frame DICOM)", "preview.png (outside the layout)"]


def test_a_dicom_file_that_is_damaged_or_has_no_study_becomes_a_study_of_its_own(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "image.dcm", dicom_image())
    put(clinic, "cut.dcm", dicom_image()[:300])
    put(clinic, "empty.dcm", b"")
    put(clinic, "nowhere.dcm", dicom_image(1, StudyInstanceUID=None))
    scan()
    assert studies(database) == {"1.2.3": 1, "cut.dcm": 1, "empty.dcm": 1, "nowhere.dcm": 1}


def test_a_second_scan_opens_only_new_files(clinic: Path, database: Database, scan: Scan) -> None:
    put(clinic, "1.dcm", dicom_image(1))
    put(clinic, "ct.dcm", ct())
    put(clinic, "notes", bytes(len(dicom_image())))
    assert scan(Layout.DICOM).batches == 1
    swap(clinic, "1.dcm", dicom_image(1, StudyInstanceUID="1.2.7"))
    swap(clinic, "ct.dcm", dicom_image(SOPClassUID=uid.CTImageStorage, Modality="CR"))
    swap(clinic, "notes", dicom_image())
    put(clinic, "2.dcm", dicom_image(2))
    report = scan()
    assert report.skipped == {"CT Image Storage": 1, "not an image": 1}
    assert studies(database) == {"1.2.3": 2}
    put(clinic, "ct.dcm", dicom_image(3, StudyInstanceUID="1.2.9", PatientComments="longer"))
    scan()
    assert studies(database) == {"1.2.3": 2, "1.2.9": 1}


def test_header_attributes_are_stored_and_the_patient_only_as_a_keyed_hash(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", dicom_image(BodyPartExamined="HAND", ViewPosition="PA", ImageLaterality="L"))
    scan(key=KEY)
    (study,) = find_study(database, "1.2.3")
    (image,) = study.images
    assert (image.body_part, image.view, image.laterality, image.series) == ("HAND", "PA", "L", "1.2.3.1")
    assert study.row.body_part == "HAND"
    assert study.patient is not None
    assert len(study.patient) == 32
    assert "4711" not in study.patient


def test_with_another_pseudonym_key_all_headers_are_read_again_and_without_one_patients_stay(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", dicom_image(1))

    def patient() -> str | None:
        return find_study(database, "1.2.3")[0].patient

    scan()
    assert patient() is None
    scan(key=KEY)
    first = patient()
    assert first is not None
    swap(clinic, "1.dcm", dicom_image(1, PatientID="1147"))
    scan(key=KEY)
    put(clinic, "2.dcm", dicom_image(2))
    scan()
    assert patient() == first
    scan(key=OTHER_KEY)
    assert patient() not in (None, first)
    with database.read() as connection:
        archive_id = connection.execute(select(archives.c.id)).scalar_one()
    mark = header_marks(database, archive_id).pseudonym_key
    assert mark is not None
    assert OTHER_KEY.decode() not in mark


def test_headers_are_read_again_only_when_something_else_is_to_be_read_of_them(
    clinic: Path, database: Database, scan: Scan
) -> None:
    def swapped(number: int) -> None:
        swap(clinic, "1.dcm", dicom_image(1, AccessionNumber=f"A{number}", BodyPartExamined="GRIFFELBEIN "))

    put(clinic, "1.dcm", dicom_image(1, AccessionNumber="A0", BodyPartExamined="GRIFFELBEIN "))
    accession = frozenset({"accession"})

    def described() -> tuple[str | None, str | None]:
        row = find_study(database, "1.2.3")[0].row
        return row.accession, row.body_part

    scan()
    assert described() == (None, "GRIFFELBEIN")
    scan(keep=accession)
    assert described() == ("A0", "GRIFFELBEIN")
    swapped(1)
    scan(keep=accession)
    assert described() == ("A0", "GRIFFELBEIN")
    scan(keep=accession, site_terms={"GRIFFELBEIN": "HAND"})
    assert described() == ("A1", "HAND")
    scan(site_terms={"GRIFFELBEIN": "HAND"})
    assert described() == (None, "HAND")


def test_a_study_of_several_patients_is_named_at_the_scan_until_it_has_one(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for number in range(3):
        put(clinic, f"{number}.dcm", dicom_image(number, PatientID=f"P{number % 2}"))
    put(clinic, "other.dcm", dicom_image(9, StudyInstanceUID="1.2.4"))
    report = scan()
    assert (report.several_patients, report.of_several_patients) == (1, ["1.2.3"])
    assert [(row.study, row.patients) for row in results(database, ResultFilter())] == [("1.2.3", 2), ("1.2.4", 1)]
    (clinic / "1.dcm").unlink()
    report = scan()
    assert (report.several_patients, report.of_several_patients) == (0, [])


def test_a_study_has_one_patient_again_when_its_files_no_longer_name_any(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for number in range(2):
        put(clinic, f"{number}.dcm", dicom_image(number, PatientID=f"P{number}"))
    assert scan().several_patients == 1
    for number in range(2):
        put(clinic, f"{number}.dcm", dicom_image(number, PatientID=None, PatientName=None))
    assert scan().several_patients == 0
    assert [row.patients for row in results(database, ResultFilter())] == [None]


def test_an_image_without_patient_id_is_of_the_patient_of_its_name(clinic: Path, scan: Scan) -> None:
    put(clinic, "1.dcm", dicom_image(1, PatientID="4711", PatientName="Doe^Jane"))
    put(clinic, "2.dcm", dicom_image(2, PatientID="", PatientName="DOE^JANE"))
    assert scan().several_patients == 0
    put(clinic, "3.dcm", dicom_image(3, PatientID="", PatientName="Roe^John"))
    assert scan().several_patients == 1


def test_images_of_one_study_whose_uid_has_letters_are_one_study(clinic: Path, database: Database, scan: Scan) -> None:
    text = b"6f1e8d1c-5b7a-4c3e-9a55-0c9f6f0c0a01"
    for folder, number in (("a", 1), ("b", 2)):
        data = dicom_image(number, StudyInstanceUID="1.2.840.113619.2.5.1762583153.21")
        written = b"UI\x20\x001.2.840.113619.2.5.1762583153.21"
        assert written in data
        put(clinic, f"{folder}/{number}", data.replace(written, b"UI\x24\x00" + text))
    scan()
    assert studies(database) == {text.decode(): 2}


def test_a_radiograph_of_several_frames_is_an_image_of_its_study(clinic: Path, database: Database, scan: Scan) -> None:
    put(clinic, "1.dcm", dicom_image(1))
    put(clinic, "2.dcm", dicom_image(2, NumberOfFrames=2))
    put(clinic, "cut.dcm", dicom_image(3)[:-100])
    scan()
    assert studies(database) == {"1.2.3": 3}


def test_a_file_that_is_not_a_radiograph_is_stored_with_path_size_and_reason(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", dicom_image(1))
    put(clinic, "ct.dcm", ct())
    scan()
    with database.read() as connection:
        (row,) = connection.execute(select(skipped_files)).all()
    assert (row.path, row.size, row.reason) == ("ct.dcm", len(ct()), "CT Image Storage")


def test_an_archive_without_radiographs_is_refused_and_can_be_scanned_once_it_has_one(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "ct.dcm", ct())
    put(clinic, "preview.png", png(1))
    with pytest.raises(UsageError, match=r"skipped 1 .*a different --layout may fit"):
        scan(Layout.DICOM)
    assert list_runs(database) == []
    put(clinic, "image.dcm", dicom_image())
    assert scan(Layout.DICOM).found == 1


def test_a_study_has_the_label_and_patient_that_any_of_its_images_has(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", dicom_image(1))
    put(clinic, "2.dcm", dicom_image(2, PatientID=None))
    scan(key=KEY)
    assert find_study(database, "1.2.3")[0].patient is not None
    for number in (1, 2):
        put(clinic, f"{number}.png", png(number))
    (clinic / "manifest.csv").write_text("study,image,label\ns,1.png,positive\ns,2.png,\n")
    scan_archive(database, "listed", Source(clinic), MODEL, batch_size=4)
    assert find_study(database, "s")[0].row.human_label == "positive"


def test_patients_of_images_scanned_without_the_key_are_added_by_a_scan_with_the_key(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", dicom_image(1))
    scan(key=KEY)
    put(clinic, "2.dcm", dicom_image(2, StudyInstanceUID="1.2.9", PatientID="8"))
    scan()
    assert find_study(database, "1.2.9")[0].patient is None
    scan(key=KEY)
    assert find_study(database, "1.2.9")[0].patient is not None


def test_a_member_of_a_tar_whose_name_is_not_utf8_is_found_under_a_readable_name(clinic: Path, scan: Scan) -> None:
    put(clinic, "1.dcm", dicom_image(1))
    with tarfile.open(clinic / "images.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        about = tarfile.TarInfo("f\u00fcr.dcm")
        about.size = len(dicom_image(2))
        tar.addfile(about, io.BytesIO(dicom_image(2)))
    report = scan(Layout.DICOM)
    assert (report.found, report.skipped) == (2, {})


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def test_images_at_paths_that_a_scan_cannot_read_are_not_gone(clinic: Path, database: Database, scan: Scan) -> None:
    put(clinic, "loose.png", png(1))
    put(clinic, "growing.png", png(2))
    write_zip(clinic / "images.zip", {"s/1.png": png(3), "s/2.png": png(4)})
    run = scan(Layout.FOLDER).run_id
    finish_batches(database)
    before = studies(database)
    container = (clinic / "images.zip").read_bytes()
    (clinic / "images.zip").write_bytes(container[:-30])
    os.utime(clinic / "images.zip", (1, 1))

    class Growing(Source):
        def wait_until_quiet(self, mtime_ns: int, wait: Wait) -> None:
            append(clinic / "growing.png")

    append(clinic / "growing.png")
    source = Growing(clinic, quiet_seconds=600.0)
    plan = dry_run(database, "clinic", source, MODEL.queue)
    report = scan_archive(database, "clinic", source, MODEL, batch_size=4)
    assert report.skipped == {"damaged container": 1, "still being written": 1}
    assert report.unread == {"images.zip", "growing.png"}
    assert (plan.gone, report.gone) == (0, 0)
    assert studies(database) == before
    assert {row.status for row in results(database, ResultFilter(run=run))} == {"scored"}
    (clinic / "images.zip").unlink()
    assert scan().gone == 2


HOUR = 3_600_000_000_000


def screened(clinic: Path, database: Database, scan: Scan, *images: str) -> int:
    """Scan images and screen them, each as the content that it has."""
    for number, image in enumerate(images):
        put(clinic, image, png(number))
        os.utime(clinic / image, ns=(0, 1_700_000_000_123_456_789))
    run = scan(Layout.FOLDER).run_id
    finish_batches(database)
    with database.write() as connection:
        rows = connection.execute(select(outcomes.c.content_id, images_table.c.path).join_from(outcomes, images_table))
        for row in rows.all():
            digest = content_digest((clinic / row.path).read_bytes())
            connection.execute(update(contents).where(contents.c.id == row.content_id).values(sha256=digest))
    return run


def move_time(clinic: Path, image: str, by_ns: int) -> None:
    status = (clinic / image).stat()
    os.utime(clinic / image, ns=(0, status.st_mtime_ns + by_ns))


@pytest.mark.parametrize("by_ns", [HOUR, -HOUR, 26 * HOUR, 2 * HOUR + 1_900_000_000, -HOUR - 1_900_000_000, 1_000_000])
def test_a_time_that_moved_by_whole_hours_is_no_change_if_the_content_is_the_same(
    clinic: Path, database: Database, scan: Scan, by_ns: int
) -> None:
    run = screened(clinic, database, scan, "s/1.png", "s/2.png")
    for image in ("s/1.png", "s/2.png"):
        move_time(clinic, image, by_ns)
    plan = dry_run(database, "clinic", Source(clinic), MODEL.queue)
    assert (plan.processed, plan.changed, plan.new) == (2, 0, 0)
    assert scan().batches == 0
    assert {row.status for row in results(database, ResultFilter(run=run))} == {"scored"}
    with database.read() as connection:
        rows = connection.execute(select(images_table.c.path, images_table.c.mtime_ns)).all()
    assert {row.path: row.mtime_ns for row in rows} == {
        image: (clinic / image).stat().st_mtime_ns for image in ("s/1.png", "s/2.png")
    }
    assert kept_counts(database) == recount(database)


@pytest.mark.parametrize("by_ns", [27 * HOUR, HOUR // 2, HOUR + 3_000_000_000])
def test_a_time_that_moved_otherwise_is_a_change(clinic: Path, database: Database, scan: Scan, by_ns: int) -> None:
    screened(clinic, database, scan, "s/1.png", "s/2.png")
    move_time(clinic, "s/1.png", by_ns)
    assert dry_run(database, "clinic", Source(clinic), MODEL.queue).changed == 1
    assert scan().batches == 1


def test_other_content_whose_time_moved_by_an_hour_is_a_change_and_its_neighbours_are_not(
    clinic: Path, database: Database, scan: Scan
) -> None:
    screened(clinic, database, scan, "s/1.png", "s/2.png", "t/3.png")
    swap(clinic, "s/1.png", (clinic / "s/1.png").read_bytes()[:-1] + b"!")
    for image in ("s/1.png", "s/2.png", "t/3.png"):
        move_time(clinic, image, HOUR)
    plan = dry_run(database, "clinic", Source(clinic), MODEL.queue)
    assert (plan.processed, plan.changed) == (2, 1)
    report = scan()
    with database.read() as connection:
        current = connection.execute(select(images_table.c.path).where(images_table.c.current)).scalars().all()
        every = connection.execute(select(images_table.c.path)).scalars().all()
    assert (sorted(current), len(every), report.batches) == (["s/1.png", "s/2.png", "t/3.png"], 4, 1)
    assert kept_counts(database) == recount(database)


def test_a_file_that_was_never_screened_and_whose_time_moved_is_scanned_as_changed(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "s/1.png", png(1))
    scan(Layout.FOLDER)
    move_time(clinic, "s/1.png", HOUR)
    assert dry_run(database, "clinic", Source(clinic), MODEL.queue).changed == 1
    scan()
    with database.read() as connection:
        assert len(connection.execute(select(images_table.c.id)).all()) == 2


def test_a_time_that_moves_to_and_fro_finds_its_version_again(clinic: Path, database: Database, scan: Scan) -> None:
    screened(clinic, database, scan, "s/1.png")
    move_time(clinic, "s/1.png", HOUR // 2)
    scan()
    finish_batches(database)
    # A row of the version that the file goes back to exists, though an hour from the current one is another.
    move_time(clinic, "s/1.png", -HOUR // 2)
    assert scan().batches == 0
    with database.read() as connection:
        assert len(connection.execute(select(images_table.c.id)).all()) == 2
    assert kept_counts(database) == recount(database)
