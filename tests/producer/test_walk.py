"""Walking an archive: whole, streaming, and honest about what it passes over."""

import os
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from producer.layout_detection import detect_layout
from producer.walk import MAX_DEPTH, walk
from tests.archives import as_plain_user, flat_tree, folder_for_others, folder_tree, mura_tree
from xray.archives.archive_file import ArchiveFile, Placement, Skipped, path_as_text
from xray.archives.layouts import placement_from_path
from xray.errors import ArchiveOutage, UsageError
from xray.vocabulary import Layout, SkipReason


def files(root: Path) -> set[str]:
    return {seen.path for seen in walk(root) if isinstance(seen, ArchiveFile)}


def skips(root: Path) -> Counter[SkipReason]:
    return Counter(seen.reason for seen in walk(root) if isinstance(seen, Skipped))


def test_every_file_is_found_once_with_its_size_and_time(tmp_path):
    folder_tree(tmp_path, 30, images_per_study=3)

    found = [seen for seen in walk(tmp_path) if isinstance(seen, ArchiveFile)]

    assert len(found) == 90
    assert {entry.path for entry in found} == {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*.png")}
    for entry in found:
        status = (tmp_path / entry.path).stat()
        assert (entry.size, entry.mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_a_mura_archive_is_walked_and_placed_whole(tmp_path):
    studies = mura_tree(tmp_path, 101)

    places = [placement_from_path(path, Layout.MURA, tmp_path) for path in files(tmp_path)]

    found = [placed for placed in places if isinstance(placed, Placement)]
    assert len(found) == 101
    assert len({placed.study for placed in found}) == studies
    assert skips(tmp_path) == {SkipReason.HIDDEN: 2}


def test_hidden_folders_are_passed_over_whole(tmp_path):
    for name in (".git", "__MACOSX", "@eaDir"):
        flat_tree(tmp_path / name, 3)

    assert files(tmp_path) == set()
    assert skips(tmp_path) == {SkipReason.HIDDEN: 3}


def test_links_to_files_are_kept_and_links_to_folders_counted(tmp_path):
    root = tmp_path / "root"
    flat_tree(root, 1)
    flat_tree(tmp_path / "elsewhere", 1)
    (root / "file.png").symlink_to(tmp_path / "elsewhere" / "film000000.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "round").symlink_to(root)

    assert files(root) == {"film000000.png", "file.png"}
    assert skips(root) == {SkipReason.LINKED_FOLDER: 2}


def test_broken_links_are_kept_so_that_their_failure_is_seen(tmp_path):
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "itself.png").symlink_to("itself.png")

    assert files(tmp_path) == {"broken.png", "itself.png"}


def test_special_files_are_counted(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")

    assert skips(tmp_path) == {SkipReason.SPECIAL_FILE: 2}


def test_a_time_beyond_what_a_database_holds_is_clamped(tmp_path):
    flat_tree(tmp_path, 1)
    os.utime(tmp_path / "film000000.png", (2**33 + 2**30, 2**33 + 2**30))

    assert all(seen.mtime_ns < 2**63 for seen in walk(tmp_path) if isinstance(seen, ArchiveFile))


def test_a_folder_that_may_not_be_listed_is_reported_by_name():
    with folder_for_others() as root:
        flat_tree(root / "open", 2)
        (root / "closed").mkdir(mode=0o000)
        with as_plain_user():
            seen = list(walk(root))

    assert [s for s in seen if isinstance(s, Skipped)] == [Skipped("closed", SkipReason.UNREADABLE)]
    assert len(seen) == 3


def test_names_that_are_no_utf8_are_reported_by_name(tmp_path):
    (tmp_path / os.fsdecode(b"M\xfcller")).mkdir()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / os.fsdecode(b"H\xe4nde.png")).touch()

    skipped = {(path_as_text(one.path), one.reason) for one in walk(tmp_path) if isinstance(one, Skipped)}

    assert skipped == {
        (r"M\xfcller", SkipReason.NAME_NOT_UTF8),
        (r"study/H\xe4nde.png", SkipReason.NAME_NOT_UTF8),
    }
    assert files(tmp_path) == set()


def test_nesting_has_an_end(tmp_path):
    deepest = tmp_path.joinpath(*["d"] * (MAX_DEPTH + 5))
    deepest.mkdir(parents=True)
    (deepest / "a.png").touch()

    assert files(tmp_path) == set()
    assert skips(tmp_path) == {SkipReason.NESTED_TOO_DEEP: 1}


@pytest.mark.parametrize("read", [lambda root: list(walk(root)), detect_layout])
def test_a_root_that_is_no_folder_is_said_with_the_way_out(tmp_path, read):
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match=r"gone does not exist; name a folder"):
        read(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"file is not a folder; name the folder"):
        read(tmp_path / "file")


def test_a_root_that_may_not_be_listed_is_said_with_the_way_out():
    with folder_for_others() as root:
        root.joinpath("closed").mkdir(mode=0o000)
        with as_plain_user(), pytest.raises(UsageError, match="closed cannot be listed"):
            list(walk(root / "closed"))


def test_an_archive_that_goes_away_midway_is_an_outage(tmp_path):
    root = tmp_path / "root"
    folder_tree(root, 20)
    seen = walk(root)
    next(seen)

    root.rename(tmp_path / "away")

    with pytest.raises(ArchiveOutage, match="root"):
        list(seen)


def test_a_mount_point_left_empty_midway_is_an_outage(tmp_path):
    root = tmp_path / "root"
    folder_tree(root, 20)
    seen = walk(root)
    next(seen)

    root.rename(tmp_path / "away")
    root.mkdir()

    with pytest.raises(ArchiveOutage, match="root"):
        list(seen)


def test_a_root_swapped_for_another_is_an_outage_even_when_all_was_listed(tmp_path):
    root = tmp_path / "root"
    flat_tree(root, 1)
    seen = walk(root)
    next(seen)

    root.rename(tmp_path / "away")
    flat_tree(root, 1)

    with pytest.raises(ArchiveOutage, match="went away"):
        list(seen)


def test_a_study_removed_midway_is_counted_and_the_rest_goes_on(tmp_path):
    folder_tree(tmp_path, 20, images_per_study=1)
    seen = walk(tmp_path)
    first = next(seen)
    for folder in tmp_path.iterdir():
        if folder.name != first.path.split("/")[0]:
            shutil.rmtree(folder)

    rest = list(seen)

    assert {s.reason for s in rest if isinstance(s, Skipped)} <= {SkipReason.VANISHED}
    assert len(rest) == 19


def test_a_walk_that_is_left_closes_its_folders(tmp_path):
    folder_tree(tmp_path, 3)
    before = len(os.listdir("/proc/self/fd"))
    seen = walk(tmp_path)
    next(seen)

    seen.close()

    assert len(os.listdir("/proc/self/fd")) == before


def peak_of_walk(root: Path) -> int:
    tracemalloc.start()
    for _ in walk(root):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_number_of_files_or_folders(tmp_path):
    for number in range(2_000):
        (tmp_path / f"case{number}").mkdir()
        (tmp_path / f"{number}.png").touch()

    assert peak_of_walk(tmp_path) < 100_000
