"""Walking an archive's folders: all files, in constant memory, with a reason for each skipped file."""

import os
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import pytest

from producer.layout_detection import detect_layout
from producer.walk import MAX_DEPTH, walk
from tests.archives import as_plain_user, flat_tree, folder_for_others, folder_tree, mura_tree
from xray.archives.archive_file import ArchiveFile, Placement, Skipped
from xray.archives.files import file_version, read_image_file
from xray.archives.layouts import placement_from_path
from xray.errors import ArchiveOutage, UsageError
from xray.vocabulary import Layout, SkipReason


def files(root: Path) -> set[str]:
    return {one.path for one in walk(root) if isinstance(one, ArchiveFile)}


def skips(root: Path) -> Counter[SkipReason]:
    return Counter(one.reason for one in walk(root) if isinstance(one, Skipped))


def test_every_file_is_found_once_with_its_size_and_time(tmp_path):
    folder_tree(tmp_path, 30, images_per_study=3)

    found = [one for one in walk(tmp_path) if isinstance(one, ArchiveFile)]

    assert len(found) == 90
    assert {entry.path for entry in found} == {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*.png")}
    for entry in found:
        status = (tmp_path / entry.path).stat()
        assert (entry.size, entry.mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_every_image_of_a_mura_archive_is_found_with_its_study(tmp_path):
    studies = mura_tree(tmp_path, 101)

    placements = [placement_from_path(path, Layout.MURA, tmp_path) for path in files(tmp_path)]

    found = [one for one in placements if isinstance(one, Placement)]
    assert len(found) == 101
    assert len({one.study for one in found}) == studies
    assert skips(tmp_path) == {SkipReason.HIDDEN: 2}


def test_hidden_folders_are_skipped_with_all_they_hold(tmp_path):
    for name in (".git", "__MACOSX", "@eaDir"):
        flat_tree(tmp_path / name, 3)

    assert files(tmp_path) == set()
    assert skips(tmp_path) == {SkipReason.HIDDEN: 3}


def test_links_to_files_are_found_and_links_to_folders_are_skipped(tmp_path):
    root = tmp_path / "root"
    flat_tree(root, 1)
    flat_tree(tmp_path / "elsewhere", 1)
    (root / "file.png").symlink_to(tmp_path / "elsewhere" / "image000000.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "round").symlink_to(root)

    assert files(root) == {"image000000.png", "file.png"}
    assert skips(root) == {SkipReason.LINKED_FOLDER: 2}


def lost(root: Path) -> dict[str, SkipReason | None]:
    return {one.path: one.lost for one in walk(root) if isinstance(one, ArchiveFile)}


def test_broken_links_are_found_as_lost_so_that_they_become_failures(tmp_path):
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "itself.png").symlink_to("itself.png")

    assert lost(tmp_path) == dict.fromkeys(("broken.png", "itself.png"), SkipReason.BROKEN_LINK)


def test_special_files_are_found_as_lost(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "image.png").touch()

    assert lost(tmp_path) == {**dict.fromkeys(("pipe.png", "link.png"), SkipReason.SPECIAL_FILE), "image.png": None}


def test_a_time_that_a_database_cannot_hold_is_clamped(tmp_path):
    flat_tree(tmp_path, 1)
    os.utime(tmp_path / "image000000.png", (2**33 + 2**30, 2**33 + 2**30))

    assert all(one.mtime_ns < 2**63 for one in walk(tmp_path) if isinstance(one, ArchiveFile))


def test_a_folder_that_cannot_be_listed_is_skipped_by_name():
    with folder_for_others() as root:
        flat_tree(root / "open", 2)
        (root / "closed").mkdir(mode=0o000)
        with as_plain_user():
            walked = list(walk(root))

    assert [one for one in walked if isinstance(one, Skipped)] == [Skipped("closed", SkipReason.UNREADABLE)]
    assert len(walked) == 3


def test_files_whose_names_are_not_utf8_are_found_under_readable_names_and_can_be_read(tmp_path):
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    folder.mkdir()
    (folder / os.fsdecode(b"H\xe4nde.png")).write_bytes(b"gray")

    assert files(tmp_path) == {r"M\xfcller/H\xe4nde.png"}
    assert read_image_file(tmp_path, r"M\xfcller/H\xe4nde.png") == b"gray"


def test_a_name_that_is_not_utf8_beside_a_file_with_its_readable_name_is_skipped(tmp_path):
    (tmp_path / os.fsdecode(b"H\xe4nde.png")).write_bytes(b"gray")
    (tmp_path / r"H\xe4nde.png").write_bytes(b"other")

    assert files(tmp_path) == {r"H\xe4nde.png"}
    assert read_image_file(tmp_path, r"H\xe4nde.png") == b"other"
    assert skips(tmp_path) == {SkipReason.NAME_NOT_UTF8: 1}


NFC, NFD = (normalize(form, "H\xe4nde/\uac00\u304c.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("name", [NFC, NFD])
def test_names_are_composed_and_read_in_the_form_on_disk(tmp_path, name):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"gray")

    assert files(tmp_path) == {NFC}
    assert read_image_file(tmp_path, NFC) == read_image_file(tmp_path, NFD) == b"gray"
    assert file_version(tmp_path, NFC) == file_version(tmp_path, name)


def test_two_files_whose_names_differ_in_their_form_stay_two(tmp_path):
    for name, content in ((NFC, b"composed"), (NFD, b"decomposed")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)

    # Of the decomposed folder, only the file's own name can be composed.
    kept = f"{NFD.split('/')[0]}/{NFC.split('/')[1]}"
    assert files(tmp_path) == {NFC, kept}
    assert read_image_file(tmp_path, NFC) == b"composed"
    assert read_image_file(tmp_path, kept) == b"decomposed"
    (tmp_path / NFC).with_name(NFD.split("/")[1]).write_bytes(b"beside it")
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("name", ["\u212b.png", "\uf900.png", "e\u0301\xe9.png"])
def test_a_name_that_would_not_come_back_is_left_as_it_is(tmp_path, name):
    # An angstrom sign, a compatibility ideograph, and a name in both forms.
    (tmp_path / name).write_bytes(b"gray")

    assert files(tmp_path) == {name}
    assert read_image_file(tmp_path, name) == b"gray"


def test_a_file_without_rights_is_lost_and_its_neighbours_are_found():
    with folder_for_others() as root:
        flat_tree(root / "open", 2)
        flat_tree(root / "closed", 1)
        # It can be listed, but its files cannot be looked at.
        (root / "closed").chmod(0o744)
        with as_plain_user():
            found = lost(root)

    assert [path for path, reason in found.items() if reason is None] != []
    assert found["closed/image000000.png"] is SkipReason.UNREADABLE
    assert len(found) == 3


def test_folders_nested_too_deeply_are_skipped(tmp_path):
    deepest = tmp_path.joinpath(*["d"] * (MAX_DEPTH + 5))
    deepest.mkdir(parents=True)
    (deepest / "a.png").touch()

    assert files(tmp_path) == set()
    assert skips(tmp_path) == {SkipReason.NESTED_TOO_DEEP: 1}


@pytest.mark.parametrize("read", [lambda root: list(walk(root)), detect_layout])
def test_a_root_that_is_not_a_folder_is_refused_with_what_to_do(tmp_path, read):
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match=r"gone does not exist; name a folder"):
        read(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"file is not a folder; name the folder"):
        read(tmp_path / "file")


def test_a_root_that_cannot_be_listed_is_refused():
    with folder_for_others() as root:
        root.joinpath("closed").mkdir(mode=0o000)
        with as_plain_user(), pytest.raises(UsageError, match="closed cannot be listed"):
            list(walk(root / "closed"))


def test_an_archive_that_goes_away_during_the_walk_is_an_outage(tmp_path):
    root = tmp_path / "root"
    folder_tree(root, 20)
    walked = walk(root)
    next(walked)

    root.rename(tmp_path / "away")

    with pytest.raises(ArchiveOutage, match="root"):
        list(walked)


def test_a_mount_point_that_becomes_empty_during_the_walk_is_an_outage(tmp_path):
    root = tmp_path / "root"
    folder_tree(root, 20)
    walked = walk(root)
    next(walked)

    root.rename(tmp_path / "away")
    root.mkdir()

    with pytest.raises(ArchiveOutage, match="root"):
        list(walked)


def test_a_root_replaced_by_another_is_an_outage_even_after_everything_was_listed(tmp_path):
    root = tmp_path / "root"
    flat_tree(root, 1)
    walked = walk(root)
    next(walked)

    root.rename(tmp_path / "away")
    flat_tree(root, 1)

    with pytest.raises(ArchiveOutage, match="became unavailable"):
        list(walked)


def test_a_study_removed_during_the_walk_is_counted_and_the_walk_continues(tmp_path):
    folder_tree(tmp_path, 20, images_per_study=1)
    walked = walk(tmp_path)
    first = next(walked)
    for folder in tmp_path.iterdir():
        if folder.name != first.path.split("/")[0]:
            shutil.rmtree(folder)

    rest = list(walked)

    assert {one.reason for one in rest if isinstance(one, Skipped)} <= {SkipReason.VANISHED}
    assert len(rest) == 19


def test_a_walk_that_is_stopped_closes_its_folders(tmp_path):
    folder_tree(tmp_path, 3)
    before = len(os.listdir("/proc/self/fd"))
    walked = walk(tmp_path)
    next(walked)

    walked.close()

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
