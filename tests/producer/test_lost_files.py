"""What a study lost makes it incomplete: files that cannot be read become images that fail with a reason."""

import io
import os
import struct
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import select

from db.session import Database
from db.tables import archives, images
from producer.dry_run import dry_run
from producer.scan import scan_archive
from producer.source import Source
from tests.archives import as_plain_user, folder_for_others, png
from tests.clinics import Scan, dicom_image, put, studies
from tests.containers import write_zip
from tests.seeding import MODEL
from xray.archives.files import read_image_file
from xray.errors import FileFault, UsageError
from xray.vocabulary import Layout, Reason

MURA = "XR_HAND/patient00001/study1_positive"


def encrypt(path: Path, only: bytes = b"") -> Path:
    """Set the flag for encryption of all members of a zip, or of those whose names begin like this."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    while at >= 0:
        if data[at + 46 :].startswith(only):
            data[at + 8] |= 1
        at = data.find(b"PK\1\2", at + 4)
    path.write_bytes(data)
    return path


def failures(root: Path, database: Database) -> dict[str, Reason]:
    """Read each current image as a worker would; return why some fail."""
    found = {}
    with database.read() as connection:
        rows = connection.execute(select(images.c.path, images.c.size, images.c.mtime_ns).where(images.c.current)).all()
    for row in rows:
        try:
            read_image_file(root, row.path, expected=(row.size, row.mtime_ns))
        except FileFault as fault:
            found[row.path] = fault.reason
    return found


def lose_files(folder: Path, where: str) -> dict[str, Reason]:
    """Put a good image in a folder of an archive, and files that cannot be read; return the reasons."""
    put(folder, f"{where}/image1.png", png(1))
    os.mkfifo(folder / where / "pipe.png")
    (folder / where / "link.png").symlink_to("nowhere.png")
    (folder / where / "notes.txt").symlink_to("nowhere.txt")
    return {f"{where}/pipe.png": Reason.UNREADABLE, f"{where}/link.png": Reason.BROKEN_LINK}


@pytest.mark.parametrize(("layout", "where"), [(Layout.MURA, MURA), (Layout.FOLDER, "s"), (Layout.FLAT, "s")])
def test_a_file_that_the_layout_places_in_a_study_and_that_cannot_be_read_is_an_image_that_fails(
    clinic: Path, database: Database, scan: Scan, layout: Layout, where: str
) -> None:
    lost = lose_files(clinic, where)
    report = scan(layout)
    assert studies(database) == (
        dict.fromkeys([*lost, f"{where}/image1.png"], 1) if layout is Layout.FLAT else {where: 3}
    )
    assert failures(clinic, database) == lost
    assert report.skipped == {"special file": 1, "broken link": 1, "not an image": 1}
    assert report.is_partial
    assert scan(layout).batches == 0


def test_members_that_cannot_be_read_fail_in_their_study_and_keep_their_version(
    clinic: Path, database: Database, scan: Scan
) -> None:
    with tarfile.open(clinic / "a.tar", "w") as tar:
        for name, kind in (("s/a.png", tarfile.REGTYPE), ("s/b.png", tarfile.LNKTYPE), ("s/c.png", tarfile.FIFOTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname, header.size = kind, "s/gone.png", len(png(1)) * (kind == tarfile.REGTYPE)
            tar.addfile(header, io.BytesIO(png(1)))
    write_zip(clinic / "b.zip", {"t/a.png": png(2), "t/closed.png": png(3)})
    encrypt(clinic / "b.zip", b"t/closed")
    report = scan(Layout.FOLDER)
    assert studies(database) == {"a.tar/s": 3, "b.zip/t": 2}
    assert failures(clinic, database) == {
        "a.tar/s/b.png": Reason.BROKEN_LINK,
        "a.tar/s/c.png": Reason.UNREADABLE,
        "b.zip/t/closed.png": Reason.UNSUPPORTED,
    }
    assert len([line for line in report.warnings if line.startswith("b.zip")]) == 1
    assert scan().batches == 0
    assert len(failures(clinic, database)) == 3


def test_lost_files_of_a_dicom_archive_are_studies_of_their_own_if_they_may_be_dicom(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.dcm", dicom_image(1))
    for name in ("IM0002", "3.dcm"):
        (clinic / name).symlink_to("nowhere")
    for name in ("icon.png", "readme.txt"):
        os.mkfifo(clinic / name)
    report = scan(Layout.DICOM)
    assert studies(database) == {"1.2.3": 1, "IM0002": 1, "3.dcm": 1}
    assert report.skipped == {"broken link": 2, "special file": 2}


def test_a_file_without_rights_fails_unless_it_was_screened_before(database: Database) -> None:
    with folder_for_others() as root:
        for name in ("s/1.png", "s/2.png", "t/3.png"):
            put(root, name, png(int(name[2])))
        (root / "s").chmod(0o744)
        with as_plain_user():
            first = scan_archive(database, "clinic", Source(root, Layout.FOLDER), MODEL, batch_size=4)
            assert failures(root, database) == {"s/1.png": Reason.UNREADABLE, "s/2.png": Reason.UNREADABLE}
        (root / "s").chmod(0o755)
        second = scan_archive(database, "clinic", Source(root), MODEL, batch_size=4)
        assert failures(root, database) == {}
        (root / "s").chmod(0o744)
        with as_plain_user():
            third = scan_archive(database, "clinic", Source(root), MODEL, batch_size=4)
        (root / "s").chmod(0o755)
    assert (first.found, second.found, third.found) == (3, 3, 1)
    assert third.unread == {"s/1.png", "s/2.png"}
    assert third.gone == 0
    assert studies(database) == {"s": 2, "t": 1}


def test_a_new_file_that_is_still_written_fails_as_changed_and_is_read_by_the_next_scan(
    clinic: Path, database: Database
) -> None:
    put(clinic, "s/1.png", png(1))
    os.utime(clinic / "s/1.png", (1, 1))
    put(clinic, "s/2.png", png(2))
    ended = threading.Event()

    def write() -> None:
        with (clinic / "s/2.png").open("ab", buffering=0) as file:
            while not ended.wait(0.05):
                file.write(b"more")

    writer = threading.Thread(target=write)
    writer.start()
    report = scan_archive(database, "clinic", Source(clinic, quiet_seconds=1.0), MODEL, batch_size=4)
    ended.set()
    writer.join()
    assert report.skipped == {"still being written": 1}
    assert studies(database) == {"s": 2}
    assert failures(clinic, database) == {"s/2.png": Reason.CHANGED}
    assert scan_archive(database, "clinic", Source(clinic), MODEL, batch_size=4).skipped == {}
    assert failures(clinic, database) == {}
    assert studies(database) == {"s": 2}


def test_an_encrypted_zip_as_root_is_refused_with_the_way_out_and_a_proper_one_is_then_grouped_by_study(
    database: Database, tmp_path: Path
) -> None:
    root = tmp_path / "download.zip"
    files = {f"case{n}/IM{n}.dcm": dicom_image(n) for n in range(3)}
    write_zip(root, files)
    encrypt(root)
    for scan in (
        lambda: scan_archive(database, "download", Source(root), MODEL, batch_size=4),
        lambda: dry_run(database, "download", Source(root), MODEL.queue),
    ):
        with pytest.raises(UsageError, match=r"it is encrypted; unpack it with its password \(7z x FILE\)"):
            scan()
    with database.read() as connection:
        assert connection.execute(select(archives.c.id)).all() == []
    write_zip(root, files)
    assert scan_archive(database, "download", Source(root), MODEL, batch_size=4).layout is Layout.DICOM
    assert studies(database) == {"1.2.3": 3}


@pytest.mark.parametrize("beside", [[], ["loose.dcm"], ["loose.png"]])
def test_an_encrypted_zip_in_a_folder_is_one_line_and_does_not_decide_the_layout(
    clinic: Path, database: Database, scan: Scan, beside: list[str]
) -> None:
    for name in beside:
        put(clinic, name, png(9) if name.endswith("png") else dicom_image(9))
    files = {f"case{n}/IM{n}.dcm": dicom_image(n) for n in range(3)}
    write_zip(clinic / "download.zip", files)
    encrypt(clinic / "download.zip")
    if beside:
        report = scan()
        assert report.warnings == [
            "download.zip (encrypted container): unpack it with its password (7z x FILE), then screen the folder"
        ]
        assert (report.found, report.is_partial) == (1, True)
    else:
        with pytest.raises(UsageError, match=r"skipped 1 encrypted zip.*; encrypted container: unpack it"):
            scan()
    write_zip(clinic / "download.zip", files)
    report = scan()
    assert report.layout is Layout.DICOM
    assert studies(database) == {"1.2.3": 3 + beside.count("loose.dcm")}


def test_a_study_that_a_layout_grouped_by_path_is_grouped_by_its_header_once_the_zip_beside_it_can_be_read(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for n in range(12):
        put(clinic, f"many/{n}.png", png(n))
    put(clinic, "many/x.dcm", dicom_image(1))
    write_zip(clinic / "download.zip", {f"case{n}/IM{n}": dicom_image(n) for n in range(2, 40)})
    whole = (clinic / "download.zip").read_bytes()
    (clinic / "download.zip").write_bytes(whole[:-30])
    assert scan().layout is Layout.FOLDER
    (clinic / "download.zip").write_bytes(whole)
    assert scan().layout is Layout.DICOM
    assert studies(database) == {"1.2.3": 39}
    assert scan().layout is Layout.DICOM


@pytest.mark.parametrize("packing", [9, zipfile.ZIP_BZIP2])
def test_a_zip_of_another_packing_is_one_line(clinic: Path, scan: Scan, packing: int) -> None:
    put(clinic, "1.png", png(1))
    write_zip(clinic / "a.zip", {f"{n}.png": png(n) for n in range(30)})
    data = (clinic / "a.zip").read_bytes()
    entry = struct.Struct("<4sHHHH")
    stored, other = (entry.pack(b"PK\1\2", 20 + 3 * 256, 20, 0, method) for method in (zipfile.ZIP_STORED, packing))
    assert data.count(stored) == 30
    (clinic / "a.zip").write_bytes(data.replace(stored, other))
    report = scan()
    assert report.skipped == {"container packed in an unknown way": 1}
    assert len(report.warnings) == 1


def test_body_parts_are_counted_in_bounded_memory(clinic: Path, scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.scan_summary.MAX_TERMS", 2)
    for n, part in enumerate(["CHEST", "CHEST", "SKULL", "JAW", "CHEST", None]):
        put(clinic, f"{n}.dcm", dicom_image(n, BodyPartExamined=part))
    report = scan()
    assert len(report.body_parts) == 2
    assert report.found == 6
