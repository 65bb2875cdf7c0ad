"""Finding the files of an archive: in folders, in containers and by a manifest; files being written are skipped."""

import os
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from db.scan_cache import ScanCache
from producer.find_files import find_files
from producer.layout_detection import detect_layout
from producer.manifest_checks import require_manifest
from producer.source import Source
from producer.study_grouping import group_in_studies
from tests.archives import png
from tests.containers import write_tar, write_zip
from xray.archives.archive_file import MISSING, ArchiveFile, Skipped
from xray.archives.files import read_image_file
from xray.errors import ArchiveOutage, UsageError
from xray.vocabulary import Layout, SkipReason

MURA = "XR_HAND/patient00001/study1_positive/image1.png"


def found(source: Source) -> list[ArchiveFile | Skipped]:
    return list(find_files(source, time.sleep))


def paths(root: Path, layout: Layout = Layout.FLAT) -> set[str]:
    return {file.path for file in found(Source(root, layout)) if isinstance(file, ArchiveFile)}


def skipped(root: Path) -> Counter[str]:
    return Counter(file.reason for file in found(Source(root, Layout.FLAT)) if isinstance(file, Skipped))


def test_a_container_in_an_archive_is_read_like_a_folder(tmp_path: Path) -> None:
    (tmp_path / "loose.png").write_bytes(png(1))
    write_zip(tmp_path / "2024" / "may.zip", {MURA: png(2)})
    write_tar(tmp_path / "june.tar", {f"./{MURA}": png(3)})
    assert paths(tmp_path) == {"loose.png", f"2024/may.zip/{MURA}", f"june.tar/{MURA}"}
    for path, seed in ((f"2024/may.zip/{MURA}", 2), (f"june.tar/{MURA}", 3)):
        assert read_image_file(tmp_path, path) == png(seed)


@pytest.mark.parametrize("write", [write_zip, write_tar], ids=["zip", "tar"])
def test_the_root_of_an_archive_may_be_a_container_whose_layout_is_detected(tmp_path: Path, write: object) -> None:
    root = tmp_path / ("mura.zip" if write is write_zip else "mura.tar")
    write(root, {MURA: png(1), "README": b"text"})  # type: ignore[operator]
    assert detect_layout(root) is Layout.MURA
    assert paths(root) == {MURA, "README"}


def test_the_layout_of_a_container_in_a_folder_is_detected(tmp_path: Path) -> None:
    write_zip(tmp_path / "all.zip", {MURA: png(1)})
    assert detect_layout(tmp_path) is Layout.MURA


def test_containers_and_members_that_cannot_be_read_are_skipped_with_a_reason(tmp_path: Path) -> None:
    write_zip(tmp_path / "outer.zip", {"a.png": png(1), "../out.png": png(2), "/root.png": png(3)})
    write_tar(tmp_path / "packed.tar.gz", {"a.png": png(1)}, "w:gz")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and then nothing")
    assert paths(tmp_path) == {"outer.zip/a.png"}
    assert skipped(tmp_path) == {
        SkipReason.OUTSIDE_ARCHIVE: 2,
        SkipReason.COMPRESSED_TAR: 1,
        SkipReason.DAMAGED_CONTAINER: 1,
    }


def test_a_link_to_a_container_elsewhere_and_a_broken_one_are_skipped_by_name(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    write_zip(tmp_path / "elsewhere.zip", {MURA: png(1)})
    (root / "out.zip").symlink_to(tmp_path / "elsewhere.zip")
    (root / "lost.zip").symlink_to(tmp_path / "nowhere.zip")
    (root / "folder").mkdir()
    (root / "folder.zip").symlink_to(root / "folder")
    os.mkfifo(root / "pipe.zip")
    assert detect_layout(root) is Layout.FLAT
    assert {(file.path, file.reason) for file in found(Source(root, Layout.FLAT)) if isinstance(file, Skipped)} == {
        ("out.zip", SkipReason.OUTSIDE_ARCHIVE),
        ("lost.zip", SkipReason.BROKEN_LINK),
        ("folder.zip", SkipReason.LINKED_FOLDER),
        ("pipe.zip", SkipReason.SPECIAL_FILE),
    }


def test_a_root_that_is_a_damaged_container_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "archive.zip"
    root.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UsageError, match=r"archive\.zip cannot be read"):
        found(Source(root, Layout.FLAT))


def test_a_file_that_is_still_written_is_left_to_the_next_scan_and_one_that_is_complete_is_found(
    tmp_path: Path,
) -> None:
    growing, quiet, old = (tmp_path / f"{name}.png" for name in ("growing", "quiet", "old"))
    for file in (growing, quiet, old):
        file.write_bytes(png(1))
    os.utime(old, (1_000_000_000, 1_000_000_000))
    order = []

    def pause(seconds: float) -> None:
        order.append("pause")
        with growing.open("ab") as more:
            more.write(b"more")
        time.sleep(seconds)

    for file in find_files(Source(tmp_path, Layout.FLAT, quiet_seconds=1.0), pause):
        reason = file.reason if isinstance(file, Skipped) else file.lost
        order.append(f"{Path(file.path).stem} {reason or 'taken'}")
    assert order[0] == "old taken"
    assert order[1] == "pause"
    assert set(order[2:]) - {"pause"} == {"growing still being written", "quiet taken"}


def test_a_container_that_is_still_written_is_skipped_with_all_its_members(tmp_path: Path) -> None:
    container = tmp_path / "new.zip"
    write_zip(container, {"a.png": png(1)})

    def pause(seconds: float) -> None:
        with zipfile.ZipFile(container, "a") as file:
            file.writestr(f"{len(file.namelist())}.png", png(2))
        time.sleep(seconds)

    assert list(find_files(Source(tmp_path, Layout.FLAT, quiet_seconds=1.0), pause)) == [
        Skipped("new.zip", SkipReason.STILL_WRITTEN)
    ]


def test_a_file_from_the_future_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "future.png").write_bytes(png(1))
    os.utime(tmp_path / "future.png", (4_000_000_000, 4_000_000_000))
    waited: list[float] = []
    (file,) = find_files(Source(tmp_path, Layout.FLAT, quiet_seconds=10.0), waited.append)
    assert (file.path, waited) == ("future.png", [])


def test_a_file_that_a_manifest_lists_is_an_image_even_if_it_is_still_written_or_hidden(tmp_path: Path) -> None:
    (tmp_path / "growing.png").write_bytes(png(1))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").write_bytes(png(2))
    (tmp_path / "manifest.csv").write_text("study,image\ns,growing.png\ns,.hidden/a.png\n")

    def pause(seconds: float) -> None:
        with (tmp_path / "growing.png").open("ab") as more:
            more.write(b"more")
        time.sleep(seconds)

    source = Source(tmp_path, Layout.MANIFEST, quiet_seconds=1.0)
    files = [file for file in find_files(source, pause) if isinstance(file, ArchiveFile)]
    grouped = group_in_studies(source, files, lambda files: ScanCache())
    assert {(one.path, isinstance(one, ArchiveFile)) for one in grouped} == {
        ("growing.png", True),
        (".hidden/a.png", True),
    }
    assert all(isinstance(one, ArchiveFile) and one.placement and one.placement.study == "s" for one in grouped)


def test_a_manifest_that_is_still_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("study,image\ns,a.png\n")
    growing = threading.Timer(0.3, manifest.write_text, ["study,image\ns,a.png\ns,b.png\n"])
    growing.start()
    with pytest.raises(UsageError, match="still being written"):
        require_manifest(Source(tmp_path, Layout.MANIFEST, quiet_seconds=1.0), time.sleep)
    growing.join()
    os.utime(manifest, (1, 1))
    require_manifest(Source(tmp_path, Layout.MANIFEST, quiet_seconds=1.0), time.sleep)


def test_a_root_container_that_is_removed_during_the_wait_is_an_outage(tmp_path: Path) -> None:
    container = tmp_path / "images.zip"
    write_zip(container, {"a.png": png(1)})
    with pytest.raises(ArchiveOutage, match="is missing"):
        list(
            find_files(
                Source(container, Layout.FLAT, quiet_seconds=1.0), lambda seconds: container.unlink(missing_ok=True)
            )
        )


def test_only_files_that_a_manifest_lists_are_found_and_missing_ones_are_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "unlisted.png").write_bytes(png(2))
    (tmp_path / "manifest.csv").write_text("study,image\ns,a.png\ns,b.png\n")
    files = found(Source(tmp_path, Layout.MANIFEST))
    assert [(one.path, isinstance(one, ArchiveFile) and one.version == MISSING) for one in files] == [
        ("a.png", False),
        ("b.png", True),
    ]
    assert all(isinstance(one, ArchiveFile) and one.placement and one.placement.study == "s" for one in files)


@pytest.mark.parametrize("files", [0, 300])
def test_a_manifest_is_detected_beside_any_number_of_files(tmp_path: Path, files: int) -> None:
    root, container = tmp_path / "images", tmp_path / "images.zip"
    root.mkdir()
    members = {f"{number:03}.png": b"gray" for number in range(files)}
    for name, data in {**members, "manifest.csv": b"study,image\n"}.items():
        (root / name).write_bytes(data)
    write_zip(container, {**members, "manifest.csv": b"study,image\n"})
    assert detect_layout(root) is Layout.MANIFEST
    assert detect_layout(container) is Layout.MANIFEST


def test_a_manifest_in_a_container_lists_its_members(tmp_path: Path) -> None:
    root = tmp_path / "archive.zip"
    write_zip(root, {"manifest.csv": b"study,image\ns,images/a.png\n", "images/a.png": png(1)})
    assert detect_layout(root) is Layout.MANIFEST
    (file,) = found(Source(root, Layout.MANIFEST))
    assert isinstance(file, ArchiveFile)
    assert read_image_file(root, file.path, expected=file.version) == png(1)
