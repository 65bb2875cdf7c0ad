"""Reading inside a zip or a tar: the members and their versions."""

import os
import struct
import tarfile
import zipfile
import zlib

import pytest

from tests.containers import IMAGES, JANUARY_2024, patched, paths, reason_of, tar_of, zip_of
from xray.archives.archive_file import ArchiveFile
from xray.archives.containers import list_members, open_member, read_member
from xray.archives.files import MAX_BYTES
from xray.archives.members import is_compressed_tar, is_container
from xray.vocabulary import Reason

# --- what is a container, and what lies in it


@pytest.mark.parametrize("name", ["a.zip", "A.ZIP", "a.tar", "a.b.Tar"])
def test_a_zip_or_a_tar_is_told_by_its_suffix(name):
    assert is_container(name)
    assert not is_compressed_tar(name)


@pytest.mark.parametrize(
    "name", ["a.tar.gz", "a.TGZ", "a.tar.bz2", "a.tbz2", "a.tar.xz", "a.txz", "a.tar.zst", "a.tar.lz4"]
)
def test_a_compressed_tar_is_no_container_and_told_apart(name):
    assert is_compressed_tar(name)
    assert not is_container(name)


@pytest.mark.parametrize("name", ["zip", "a.gz", "a.tar.gz.png", "tar", "a.tgz2", "a.zip.png"])
def test_other_files_are_neither(name):
    assert not is_container(name)
    assert not is_compressed_tar(name)


def test_every_member_is_listed_with_its_size_and_read_back(container):
    listed = {member.path: member.size for member in list_members(container)}

    assert listed == {name: len(content) for name, content in IMAGES.items()}
    assert {name: read_member(container, name, None, MAX_BYTES) for name in IMAGES} == IMAGES


def test_a_member_read_with_the_version_that_was_listed_is_not_changed(container):
    for member in list_members(container):
        assert read_member(container, member.path, member.version, MAX_BYTES) == IMAGES[member.path]


def test_a_member_stream_reads_seeks_and_ends_as_a_file_does(container):
    name, content = next(iter(IMAGES.items()))
    with open_member(container, name) as stream:
        assert stream.read(8) == content[:8]
        assert stream.seek(-4, os.SEEK_END) == len(content) - 4
        assert stream.read() == content[-4:]
        assert stream.read(1) == b""
        stream.seek(1)
        assert stream.read(3) == content[1:4]
        stream.seek(10**9)
        assert stream.read() == b""


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_empty_member_gives_no_bytes(tmp_path, suffix):
    path = (zip_of if suffix == ".zip" else tar_of)(tmp_path / f"a{suffix}", {"image.png": b""})

    assert read_member(path, "image.png", None, MAX_BYTES) == b""
    with open_member(path, "image.png") as stream:
        assert stream.read() == b""


@pytest.mark.parametrize("make", [lambda p: zip_of(p / "a.zip", {}), lambda p: tar_of(p / "a.tar", {})])
def test_a_container_without_members_lists_none(tmp_path, make):
    assert list(list_members(make(tmp_path))) == []


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_keeps_names_longer_than_its_header(tmp_path, form):
    name = "/".join(["folder" * 10] * 8) + "/image.png"
    path = tar_of(tmp_path / "a.tar", {name: b"gray", "image.png": b"other"}, form)

    assert read_member(path, name, None, MAX_BYTES) == b"gray"
    assert paths(path) == [name, "image.png"]


def test_a_zip_of_more_than_65535_members_is_listed_whole(tmp_path):
    path = zip_of(tmp_path / "a.zip", {f"{n}.png": b"" for n in range(66_000)}, zipfile.ZIP_STORED)

    assert len(paths(path)) == 66_000


def test_a_zip_behind_other_bytes_is_read(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"})
    path.write_bytes(b"#!/bin/sh\n" * 10 + path.read_bytes())

    assert read_member(path, "image.png", None, MAX_BYTES) == b"gray"


def test_a_zip_with_a_comment_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as container:
        container.writestr("image.png", b"gray")
        container.comment = b"from the second shelf" * 100

    assert paths(tmp_path / "a.zip") == ["image.png"]


# --- versions


def test_a_zip_members_stamp_is_its_time_and_its_checksum(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as container:
        container.writestr(zipfile.ZipInfo("image.png", (2024, 1, 1, 0, 0, 0)), b"gray")

    assert list(list_members(tmp_path / "a.zip")) == [
        ArchiveFile("image.png", 4, JANUARY_2024 * 10**9 + zlib.crc32(b"gray"))
    ]


def test_a_date_that_no_calendar_has_does_not_hinder(tmp_path):
    path = zip_of(tmp_path / "a.zip", [(zipfile.ZipInfo("image.png", (1980, 1, 1, 0, 0, 0)), b"gray")])
    patched(path, struct.pack("<HH", 0, 33), struct.pack("<HH", 0xFFFF, 0))

    assert list(list_members(path)) == [ArchiveFile("image.png", 4, zlib.crc32(b"gray"))]


@pytest.mark.parametrize(
    ("mtime", "mtime_ns"),
    [(JANUARY_2024 + 0.25, JANUARY_2024 * 10**9 + 250_000_000), (-1.5, -1_500_000_000), (10**12, 2**63 - 1)],
)
def test_a_tar_members_stamp_is_its_time_within_64_bits(tmp_path, mtime, mtime_ns):
    path = tar_of(tmp_path / "a.tar", {"image.png": b"gray"}, mtime=mtime)

    assert list(list_members(path)) == [ArchiveFile("image.png", 4, mtime_ns)]


def test_other_content_of_one_size_within_two_seconds_is_another_version(tmp_path):
    date = (2024, 1, 1, 0, 0, 0)
    path = zip_of(tmp_path / "a.zip", [(zipfile.ZipInfo("image.png", date), b"gray")])
    [before] = list_members(path)
    zip_of(path, [(zipfile.ZipInfo("image.png", date), b"bone")])

    assert reason_of(path, expected=before.version) is Reason.CHANGED


def test_a_member_that_is_gone_has_vanished(container):
    assert reason_of(container, "gone.png") is Reason.VANISHED


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_container_that_was_rewritten_is_read_anew(tmp_path, suffix):
    make = zip_of if suffix == ".zip" else tar_of
    path = make(tmp_path / f"a{suffix}", {"image.png": b"gray"})
    assert read_member(path, "image.png", None, MAX_BYTES) == b"gray"
    make(path, {"image.png": b"another", "more.png": b"gray"})

    assert read_member(path, "image.png", None, MAX_BYTES) == b"another"
    assert paths(path) == ["image.png", "more.png"]


def test_a_container_that_can_no_longer_be_read_has_changed(container):
    container.write_bytes(container.read_bytes()[:-30] + b"in the midst of a copy")

    assert reason_of(container, next(iter(IMAGES))) is Reason.CHANGED
