"""Reading files below an archive's root: faults of one file, and outages."""

import hashlib
import io
import os
import socket
import tarfile
import tracemalloc
import zipfile

import pytest
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from tests.archives import as_plain_user, folder_for_others
from xray.archives.containers import list_members
from xray.archives.files import content_digest, open_image, read_image_file
from xray.archives.storage_errors import require_root
from xray.errors import ArchiveOutage, FileFault
from xray.vocabulary import Reason


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "archive"
    (folder / "study").mkdir(parents=True)
    (folder / "study" / "image.png").write_bytes(b"gray")
    return folder


def packed(path, files):
    """Write a zip or tar, as the suffix says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as container:
            for name, content in files.items():
                container.writestr(name, content)
    else:
        with tarfile.open(path, "w") as container:
            for name, content in files.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                container.addfile(header, io.BytesIO(content))
    return path


def fault_of(root, relative, **options) -> FileFault:
    with pytest.raises(FileFault) as caught:
        read_image_file(root, relative, **options)
    assert "/" not in str(caught.value)
    assert "image" not in caught.value.detail
    return caught.value


def test_a_file_below_the_root_is_read(root):
    assert read_image_file(root, "study/image.png") == b"gray"


def test_an_empty_file_gives_no_bytes(root):
    (root / "empty.png").touch()

    assert read_image_file(root, "empty.png") == b""


def test_a_root_that_is_a_link_is_followed(root, tmp_path):
    (tmp_path / "link").symlink_to(root)

    assert read_image_file(tmp_path / "link", "study/image.png") == b"gray"


def test_a_link_within_the_archive_is_followed(root):
    (root / "again.png").symlink_to("study/image.png")

    assert read_image_file(root, "again.png") == b"gray"


@pytest.mark.parametrize("relative", ["", ".", "..", "../secret", "study/../../secret", "/etc/passwd", "study/\0"])
def test_a_path_that_is_not_below_the_root_is_refused(root, relative):
    (root.parent / "secret").write_bytes(b"secret")

    assert fault_of(root, relative).reason is Reason.OUTSIDE_ARCHIVE


def test_a_link_out_of_the_archive_is_refused(root):
    (root.parent / "secret").write_bytes(b"secret")
    (root / "leak.png").symlink_to(root.parent / "secret")
    (root / "outside").symlink_to(root.parent)

    assert fault_of(root, "leak.png").reason is Reason.OUTSIDE_ARCHIVE
    assert fault_of(root, "outside/secret").reason is Reason.OUTSIDE_ARCHIVE


def test_a_folder_whose_name_begins_like_the_root_is_outside(root):
    twin = root.with_name(root.name + "2")
    twin.mkdir()
    (twin / "image.png").write_bytes(b"secret")
    (root / "leak.png").symlink_to(twin / "image.png")

    assert fault_of(root, "leak.png").reason is Reason.OUTSIDE_ARCHIVE


def test_a_fifo_is_refused_without_waiting_for_a_writer(root):
    os.mkfifo(root / "pipe.png")

    assert fault_of(root, "pipe.png").reason is Reason.UNREADABLE


def test_a_socket_and_a_folder_are_unreadable(root, monkeypatch):
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")

        reasons = [fault_of(root, name).reason for name in ("socket.png", "study")]

    assert reasons == [Reason.UNREADABLE] * 2


def test_refused_files_are_closed(root):
    os.mkfifo(root / "pipe.png")
    before = len(os.listdir("/proc/self/fd"))

    for name in ("pipe.png", "study", "study/image.png"):
        fault_of(root, name, max_bytes=3)

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_name_longer_than_the_file_system_takes_is_unreadable(root):
    assert fault_of(root, "n" * 300).reason is Reason.UNREADABLE


def test_the_byte_cap_is_checked_before_reading(root):
    with (root / "sparse.png").open("wb") as file:
        file.truncate(2**40)

    assert fault_of(root, "sparse.png").reason is Reason.TOO_LARGE


def test_the_byte_cap_is_inclusive(root):
    assert read_image_file(root, "study/image.png", max_bytes=4) == b"gray"
    assert fault_of(root, "study/image.png", max_bytes=3).reason is Reason.TOO_LARGE


def test_a_file_without_read_permission_is_unreadable():
    with folder_for_others() as root:
        (root / "image.png").touch(mode=0o000)
        with as_plain_user():
            assert fault_of(root, "image.png").reason is Reason.UNREADABLE


def test_a_root_without_read_permission_is_an_outage():
    with folder_for_others() as root:
        (root / "closed").mkdir(mode=0o700)
        (root / "closed" / "image.png").touch()
        (root / "closed").chmod(0o000)
        with as_plain_user(), pytest.raises(ArchiveOutage, match="cannot be listed"):
            read_image_file(root / "closed", "image.png")


def test_a_missing_file_has_vanished(root):
    reasons = [fault_of(root, name).reason for name in ("study/gone.png", "gone/image.png")]

    assert reasons == [Reason.VANISHED] * 2


def test_a_broken_link_is_distinguished_from_a_missing_file(root):
    (root / "broken.png").symlink_to("nowhere.png")
    (root / "itself.png").symlink_to("itself.png")

    assert [fault_of(root, name).reason for name in ("broken.png", "itself.png")] == [Reason.BROKEN_LINK] * 2


def test_a_file_below_a_file_has_vanished(root):
    assert fault_of(root, "study/image.png/image.png").reason is Reason.VANISHED


def test_a_missing_root_is_an_outage_that_names_it(tmp_path):
    with pytest.raises(ArchiveOutage, match=r"gone is missing: is it mounted\?"):
        read_image_file(tmp_path / "gone", "image.png")


def test_an_empty_root_is_an_outage_as_it_may_not_be_mounted(tmp_path):
    with pytest.raises(ArchiveOutage, match="is empty"):
        read_image_file(tmp_path, "image.png")


def test_a_root_that_is_a_file_is_an_outage(tmp_path):
    (tmp_path / "root").touch()

    with pytest.raises(ArchiveOutage, match="not a folder, a zip or a tar"):
        read_image_file(tmp_path / "root", "image.png")


def test_a_file_whose_name_is_not_utf8_is_read(root):
    (root / os.fsdecode(b"M\xfcller.png")).write_bytes(b"gray")

    assert read_image_file(root, os.fsdecode(b"M\xfcller.png")) == b"gray"


def test_a_name_that_this_host_cannot_encode_is_unreadable(root):
    assert fault_of(root, "\ud800.png").reason is Reason.UNREADABLE


def test_the_digest_is_sha256():
    assert content_digest(b"gray") == hashlib.sha256(b"gray").digest()


# --- containers


@pytest.mark.parametrize("name", ["batch.zip", "batch.tar"])
def test_a_member_is_read_by_its_containers_path_and_its_own(root, name):
    packed(root / "study" / name, {"a/image.png": b"inner"})

    assert read_image_file(root, f"study/{name}/a/image.png") == b"inner"
    with open_image(root, f"study/{name}/a/image.png") as stream:
        assert stream.read(2) == b"in"


@pytest.mark.parametrize("name", ["batch.zip", "batch.tar"])
def test_members_of_a_root_container_are_read_by_their_own_paths(tmp_path, name):
    packed(tmp_path / name, {"a/image.png": b"inner"})
    (tmp_path / "linked").symlink_to(name)

    assert read_image_file(tmp_path / name, "a/image.png") == b"inner"
    assert read_image_file(tmp_path / "linked", "a/image.png") == b"inner"
    require_root(tmp_path / name)


def test_a_folder_named_like_a_container_is_a_folder_and_a_container_in_it_is_opened(root):
    (root / "year.zip").mkdir()
    packed(root / "year.zip" / "month.tar", {"day.zip/image.png": b"inner"})

    assert read_image_file(root, "year.zip/month.tar/day.zip/image.png") == b"inner"


def test_a_container_in_a_container_is_read_like_a_folder_and_one_within_that_is_not(root):
    inner = packed(root / "inner.zip", {"image.png": b"gray"}).read_bytes()
    middle = packed(root / "outer.zip", {"inner.zip": inner}).read_bytes()
    packed(root / "deep.zip", {"outer.zip": middle})

    assert read_image_file(root, "outer.zip/inner.zip/image.png") == b"gray"
    assert fault_of(root, "deep.zip/outer.zip/inner.zip/image.png").reason is Reason.VANISHED


def test_a_container_can_be_read_as_a_file(root):
    path = packed(root / "batch.zip", {"image.png": b"gray"})

    assert read_image_file(root, "batch.zip") == path.read_bytes()


@pytest.mark.parametrize("relative", ["batch.zip/../image.png", "batch.zip/..", "batch.zip/a\0"])
def test_a_members_path_that_is_not_below_its_container_is_refused(root, relative):
    packed(root / "batch.zip", {"../image.png": b"gray", "a": b"gray"})

    assert fault_of(root, relative).reason is Reason.OUTSIDE_ARCHIVE


def test_a_link_to_a_container_is_followed_only_within_the_archive(root):
    packed(root / "batch.zip", {"image.png": b"inner"})
    packed(root.parent / "secret.zip", {"image.png": b"secret"})
    (root / "again.zip").symlink_to("batch.zip")
    (root / "leak.zip").symlink_to(root.parent / "secret.zip")

    assert read_image_file(root, "again.zip/image.png") == b"inner"
    assert fault_of(root, "leak.zip/image.png").reason is Reason.OUTSIDE_ARCHIVE


def test_a_link_named_like_a_container_to_another_file_cannot_be_read(root):
    packed(root / "batch.zip", {"image.png": b"inner"}).rename(root / "batch.bin")
    (root / "batch.zip").symlink_to("batch.bin")

    assert fault_of(root, "batch.zip/image.png").reason is Reason.CHANGED


def test_a_member_of_a_missing_container_has_vanished(root):
    (root / "broken.zip").symlink_to("nowhere.zip")

    assert fault_of(root, "gone.zip/image.png").reason is Reason.VANISHED
    assert fault_of(root, "broken.zip/image.png").reason is Reason.VANISHED


def test_a_fifo_named_like_a_container_is_refused_without_waiting(root):
    os.mkfifo(root / "pipe.zip")

    assert fault_of(root, "pipe.zip/image.png").reason is Reason.VANISHED


def test_a_container_without_read_permission_is_unreadable():
    with folder_for_others() as root:
        packed(root / "batch.zip", {"image.png": b"gray"}).chmod(0o000)
        with as_plain_user():
            assert fault_of(root, "batch.zip/image.png").reason is Reason.UNREADABLE


@pytest.mark.parametrize("name", ["studies.zip", "studies.tar"])
def test_a_root_that_is_an_empty_or_missing_container_is_an_outage(tmp_path, name):
    with pytest.raises(ArchiveOutage, match=r"is missing: is it mounted\?"):
        read_image_file(tmp_path / name, "image.png")
    (tmp_path / name).touch()
    with pytest.raises(ArchiveOutage, match="is an empty file"):
        read_image_file(tmp_path / name, "image.png")


def test_a_members_time_must_match_to_the_nanosecond_and_a_files_to_two_seconds(root):
    packed(root / "batch.zip", {"image.png": b"inner"})
    [member] = list_members(root / "batch.zip")
    changed_at = (root / "study" / "image.png").stat().st_mtime_ns

    assert read_image_file(root, "batch.zip/image.png", expected=(5, member.mtime_ns)) == b"inner"
    assert fault_of(root, "batch.zip/image.png", expected=(5, member.mtime_ns + 1)).reason is Reason.CHANGED
    assert read_image_file(root, "study/image.png", expected=(4, changed_at + 1)) == b"gray"


def test_a_dicom_header_is_read_from_a_member_without_inflating_its_pixels(root):
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data_set.file_meta.MediaStorageSOPInstanceUID = "1.2.4"
    data_set.StudyInstanceUID = "1.2.3"
    data_set.add_new("PixelData", "OW", bytes(50_000_000))
    buffer = io.BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    packed(root / "batch.zip", {"IM1": buffer.getvalue()})
    del buffer
    tracemalloc.start()
    with open_image(root, "batch.zip/IM1") as stream:
        header = dcmread(stream, stop_before_pixels=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert header.StudyInstanceUID == "1.2.3"
    assert peak < 2_000_000


def test_opening_an_image_checks_what_reading_it_checks(root):
    (root.parent / "secret").write_bytes(b"secret")
    (root / "leak.png").symlink_to(root.parent / "secret")
    os.mkfifo(root / "pipe.png")
    reasons = {"leak.png": Reason.OUTSIDE_ARCHIVE, "pipe.png": Reason.UNREADABLE, "gone.png": Reason.VANISHED}
    for name, reason in reasons.items():
        with pytest.raises(FileFault) as caught, open_image(root, name):
            pass
        assert caught.value.reason is reason
    with pytest.raises(ArchiveOutage), open_image(root / "gone", "image.png"):
        pass


def test_an_opened_image_is_a_seekable_stream_and_is_closed(root):
    before = len(os.listdir("/proc/self/fd"))
    with open_image(root, "study/image.png") as stream:
        stream.seek(-1, os.SEEK_END)
        assert stream.read() == b"y"

    assert len(os.listdir("/proc/self/fd")) == before
