"""Reading inside a zip or a tar: the members, the names that are refused, the caps, and damage of every sort."""

import io
import os
import stat
import struct
import tarfile
import threading
import time
import tracemalloc
import warnings
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.archives import png
from xray.containers import indexes, members
from xray.containers.members import is_compressed_tar, is_container
from xray.containers.read import (
    MAX_RATIO,
    Member,
    PassedMember,
    list_members,
    open_member,
    read_member,
)
from xray.containers.streams import MAX_INFLATED
from xray.containers.tars import index_tar
from xray.containers.zips import index_zip
from xray.errors import ContainerFault, FileFault
from xray.files import MAX_BYTES, open_image, read_image_file
from xray.studies import SkipReason
from xray.vocabulary import Reason

FILMS = {f"XR_HAND/patient{n}/study1_positive/image1.png": png(n) for n in range(3)}
JANUARY_2024 = 1_704_067_200


def zip_of(path: Path, files, packing=zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip of names and contents; pairs may hold a name twice."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", packing) as container:
        warnings.simplefilter("ignore", UserWarning)
        for name, content in files.items() if isinstance(files, dict) else files:
            container.writestr(name, content)
    return path


def tar_of(path: Path, files, form=tarfile.PAX_FORMAT, mtime: float = JANUARY_2024) -> Path:
    """Write a tar of names and contents."""
    with tarfile.open(path, "w", format=form) as container:
        for name, content in files.items() if isinstance(files, dict) else files:
            header = tarfile.TarInfo(name)
            header.size, header.mtime = len(content), mtime
            container.addfile(header, io.BytesIO(content))
    return path


def tar_with(path: Path, header: tarfile.TarInfo, form=tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as container:
        container.addfile(header)
    return path


def patched(path: Path, old: bytes, new: bytes) -> Path:
    """Put one sequence of bytes for another, which must be there."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def paths(container: Path) -> list[str]:
    return [member.path for member in list_members(container) if isinstance(member, Member)]


def passed(container: Path) -> list[tuple[str, SkipReason]]:
    return [(member.path, member.reason) for member in list_members(container) if isinstance(member, PassedMember)]


def reason_of(container: Path, member: str = "image.png", seen=None, max_bytes: int = MAX_BYTES) -> Reason:
    with pytest.raises(FileFault) as caught:
        read_member(container, member, seen, max_bytes)
    assert "image" not in caught.value.detail
    assert "/" not in caught.value.detail
    return caught.value.reason


def fault_of(container: Path) -> SkipReason:
    with pytest.raises(ContainerFault) as caught:
        list(list_members(container))
    assert "/" not in str(caught.value)
    return caught.value.reason


@pytest.fixture(params=["stored.zip", "deflated.ZIP", "pax.tar", "gnu.tar", "ustar.TAR"])
def container(request, tmp_path):
    """Films in each kind of container that is read."""
    path = tmp_path / request.param
    if path.suffix.lower() == ".zip":
        return zip_of(path, FILMS, zipfile.ZIP_STORED if path.stem == "stored" else zipfile.ZIP_DEFLATED)
    forms = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
    return tar_of(path, FILMS, forms[path.stem])


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

    assert listed == {name: len(content) for name, content in FILMS.items()}
    assert {name: read_member(container, name, None, MAX_BYTES) for name in FILMS} == FILMS


def test_a_member_read_with_the_version_that_was_listed_is_not_changed(container):
    for member in list_members(container):
        assert read_member(container, member.path, (member.size, member.stamp_ns), MAX_BYTES) == FILMS[member.path]


def test_a_member_stream_reads_seeks_and_ends_as_a_file_does(container):
    name, content = next(iter(FILMS.items()))
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
    path = tar_of(tmp_path / "a.tar", {name: b"film", "image.png": b"other"}, form)

    assert read_member(path, name, None, MAX_BYTES) == b"film"
    assert paths(path) == [name, "image.png"]


def test_a_zip_of_more_than_65535_members_is_listed_whole(tmp_path):
    path = zip_of(tmp_path / "a.zip", {f"{n}.png": b"" for n in range(66_000)}, zipfile.ZIP_STORED)

    assert len(paths(path)) == 66_000


def test_a_zip_behind_other_bytes_is_read(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"film"})
    path.write_bytes(b"#!/bin/sh\n" * 10 + path.read_bytes())

    assert read_member(path, "image.png", None, MAX_BYTES) == b"film"


def test_a_zip_with_a_comment_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as container:
        container.writestr("image.png", b"film")
        container.comment = b"from the second shelf" * 100

    assert paths(tmp_path / "a.zip") == ["image.png"]


# --- versions


def test_a_zip_members_stamp_is_its_time_and_its_checksum(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as container:
        container.writestr(zipfile.ZipInfo("image.png", (2024, 1, 1, 0, 0, 0)), b"film")

    assert list(list_members(tmp_path / "a.zip")) == [
        Member("image.png", 4, JANUARY_2024 * 10**9 + zlib.crc32(b"film"))
    ]


def test_a_date_that_no_calendar_has_does_not_hinder(tmp_path):
    path = zip_of(tmp_path / "a.zip", [(zipfile.ZipInfo("image.png", (1980, 1, 1, 0, 0, 0)), b"film")])
    patched(path, struct.pack("<HH", 0, 33), struct.pack("<HH", 0xFFFF, 0))

    assert list(list_members(path)) == [Member("image.png", 4, zlib.crc32(b"film"))]


@pytest.mark.parametrize(
    ("mtime", "stamp_ns"),
    [(JANUARY_2024 + 0.25, JANUARY_2024 * 10**9 + 250_000_000), (-1.5, -1_500_000_000), (10**12, 2**63 - 1)],
)
def test_a_tar_members_stamp_is_its_time_within_64_bits(tmp_path, mtime, stamp_ns):
    path = tar_of(tmp_path / "a.tar", {"image.png": b"film"}, mtime=mtime)

    assert list(list_members(path)) == [Member("image.png", 4, stamp_ns)]


def test_other_content_of_one_size_within_two_seconds_is_another_version(tmp_path):
    date = (2024, 1, 1, 0, 0, 0)
    path = zip_of(tmp_path / "a.zip", [(zipfile.ZipInfo("image.png", date), b"film")])
    [before] = list_members(path)
    zip_of(path, [(zipfile.ZipInfo("image.png", date), b"bone")])

    assert reason_of(path, seen=(before.size, before.stamp_ns)) is Reason.CHANGED


def test_a_member_that_is_gone_has_vanished(container):
    assert reason_of(container, "gone.png") is Reason.VANISHED


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_container_that_was_rewritten_is_read_anew(tmp_path, suffix):
    make = zip_of if suffix == ".zip" else tar_of
    path = make(tmp_path / f"a{suffix}", {"image.png": b"film"})
    assert read_member(path, "image.png", None, MAX_BYTES) == b"film"
    make(path, {"image.png": b"another", "more.png": b"film"})

    assert read_member(path, "image.png", None, MAX_BYTES) == b"another"
    assert paths(path) == ["image.png", "more.png"]


def test_a_container_that_can_no_longer_be_read_has_changed(container):
    container.write_bytes(container.read_bytes()[:-30] + b"in the midst of a copy")

    assert reason_of(container, next(iter(FILMS))) is Reason.CHANGED


# --- names


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize(
    "name",
    [
        "../image.png",
        "study/../../image.png",
        "study/..",
        "..\\image.png",
        ".",
        "/etc/passwd",
        "C:/image.png",
        "c:image.png",
        "\\\\server\\image.png",
    ],
)
def test_a_name_that_leads_outside_is_passed_over(tmp_path, suffix, name):
    path = (zip_of if suffix == ".zip" else tar_of)(tmp_path / f"a{suffix}", [(name, b"film"), ("image.png", b"film")])

    assert [reason for _, reason in passed(path)] == [SkipReason.OUTSIDE_ARCHIVE]
    assert paths(path) == ["image.png"]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_names_of_one_place_are_made_one(tmp_path, suffix):
    make = zip_of if suffix == ".zip" else tar_of
    path = make(tmp_path / f"a{suffix}", {"./a/./image.png": b"1", "b\\image.png": b"2", "c//image.png": b"3"})

    assert paths(path) == ["a/image.png", "b/image.png", "c/image.png"]
    assert read_member(path, "b/image.png", None, MAX_BYTES) == b"2"


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_of_a_name_that_comes_twice_the_last_counts_as_once_unpacked(tmp_path, suffix):
    files = [("image.png", b"first"), ("./image.png", b"second")]
    path = (zip_of if suffix == ".zip" else tar_of)(tmp_path / f"a{suffix}", files)

    assert paths(path) == ["image.png"]
    assert passed(path) == [("image.png", SkipReason.DUPLICATE_NAME)]
    assert read_member(path, "image.png", None, MAX_BYTES) == b"second"


def test_folders_are_listed_neither_as_members_nor_as_passed_over(tmp_path):
    zipped = zip_of(tmp_path / "a.zip", {"study/": b"", "other\\": b"", "study/image.png": b"film"})
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "image.png").write_bytes(b"film")
    with tarfile.open(tmp_path / "a.tar", "w") as container:
        container.add(tmp_path / "study", "./study")

    for path in (zipped, tmp_path / "a.tar"):
        assert [member.path for member in list_members(path)] == ["study/image.png"]


def test_a_name_that_is_no_text_is_passed_over_readably(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"imageX.png": b"film", "../\x1b[2J.png": b""})
    patched(path, b"imageX.png", b"image\0.png")

    assert sorted(passed(path)) == [
        ("../\\x1b[2J.png", SkipReason.OUTSIDE_ARCHIVE),
        ("image\\x00.png", SkipReason.IMPOSSIBLE_NAME),
    ]


def test_a_name_in_utf8_is_understood_with_and_without_the_flag_that_says_so(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"M\u00fcller.png": b"film"})
    assert paths(path) == ["M\u00fcller.png"]
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + flags + 1] &= ~8
    path.write_bytes(data)

    assert paths(path) == ["M\u00fcller.png"]
    assert read_member(path, "M\u00fcller.png", None, MAX_BYTES) == b"film"


def test_a_name_in_the_code_page_of_dos_is_understood(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"MXller.png": b"film"})

    assert paths(patched(path, b"MXller", b"M\x81ller")) == ["M\u00fcller.png"]


def test_times_in_an_incremental_tars_headers_are_not_taken_for_names(tmp_path):
    block = bytearray(tar_of(tmp_path / "a.tar", {"image.png": b""}, tarfile.GNU_FORMAT).read_bytes())
    block[345:357] = b"15301642007\0"
    block[:512] = with_checksum(bytes(block[:512]))
    (tmp_path / "a.tar").write_bytes(block)

    assert paths(tmp_path / "a.tar") == ["image.png"]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_bytes_that_are_no_utf8_in_a_tar_come_as_surrogates_and_read_back(tmp_path, form):
    name = os.fsdecode(b"M\xfcller.png")
    path = tar_of(tmp_path / "a.tar", {name: b"film"}, form)

    assert paths(path) == [name]
    assert read_member(path, name, None, MAX_BYTES) == b"film"


def test_a_name_longer_than_any_path_is_passed_over_and_cut(tmp_path):
    path = tar_of(tmp_path / "a.tar", {"n" * 20_000: b"film"})

    [(name, reason)] = passed(path)
    assert (len(name), reason) == (1000, SkipReason.PATH_TOO_LONG)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_container_in_a_container_is_not_opened(tmp_path, suffix):
    inner = zip_of(tmp_path / "inner.zip", FILMS).read_bytes()
    files = {"inner.zip": inner, "b.tar": b"", "c.tar.gz": b"", "d.zip/image.png": b"film", "__MACOSX/._e.zip": b""}
    path = (zip_of if suffix == ".zip" else tar_of)(tmp_path / f"a{suffix}", files)

    assert paths(path) == ["d.zip/image.png", "__MACOSX/._e.zip"]
    assert passed(path) == [(name, SkipReason.NESTED_CONTAINER) for name in ("inner.zip", "b.tar", "c.tar.gz")]


# --- what is no file


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_a_tar_are_special(tmp_path, kind):
    header = tarfile.TarInfo("image.png")
    header.type, header.linkname = kind, "/etc/passwd"

    assert passed(tar_with(tmp_path / "a.tar", header)) == [("image.png", SkipReason.SPECIAL_FILE)]


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_a_sparse_member_of_a_pax_tar_is_special(tmp_path, version):
    header = tarfile.TarInfo("GNUSparseFile.1/image.png")
    header.pax_headers = {
        "GNU.sparse.major": version[0],
        "GNU.sparse.minor": version[2],
        "GNU.sparse.name": "image.png",
    }

    assert passed(tar_with(tmp_path / "a.tar", header)) == [("image.png", SkipReason.SPECIAL_FILE)]


def test_an_old_sparse_member_is_special_and_what_follows_is_found(tmp_path):
    header = tarfile.TarInfo("image.png")
    header.type, header.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[482] = 1
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    rest = tar_of(tmp_path / "rest.tar", {"more.png": b"film"}).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(block) + bytes(504) + b"\1" + bytes(7) + bytes(512) + b"content".ljust(512, b".") + rest)

    assert passed(path) == [("image.png", SkipReason.SPECIAL_FILE)]
    assert read_member(path, "more.png", None, MAX_BYTES) == b"film"


def test_a_link_in_a_zip_is_special(tmp_path):
    link = zipfile.ZipInfo("image.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16

    assert passed(zip_of(tmp_path / "a.zip", [(link, b"/etc/passwd")])) == [("image.png", SkipReason.SPECIAL_FILE)]


# --- members that cannot be read


def test_an_encrypted_member_is_listed_and_unsupported(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"film"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)

    assert paths(path) == ["image.png"]
    assert reason_of(path) is Reason.UNSUPPORTED
    with pytest.raises(FileFault, match="encrypted"), open_member(path, "image.png"):
        pass


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_listed_and_unsupported(tmp_path, packing):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"film"}, packing)

    assert paths(path) == ["image.png"]
    assert reason_of(path) is Reason.UNSUPPORTED


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_whose_bytes_were_damaged_is_corrupt(tmp_path, packing):
    content = os.urandom(2000)
    path = zip_of(tmp_path / "a.zip", {"image.png": content, "next.png": content}, packing)
    data = bytearray(path.read_bytes())
    data[500] ^= 0x10
    path.write_bytes(data)

    assert reason_of(path) is Reason.CORRUPT
    assert read_member(path, "next.png", None, MAX_BYTES) == content


def test_a_member_that_its_zip_gives_another_size_is_corrupt(tmp_path):
    for said in (3, 5):
        path = zip_of(tmp_path / "a.zip", {"image.png": b"film"})
        patched(path, struct.pack("<II", 6, 4), struct.pack("<II", 6, said))

        assert reason_of(path) is Reason.CORRUPT


def test_a_member_whose_header_is_not_where_its_zip_says_is_corrupt_or_truncated(tmp_path):
    for offset, reason in ((3, Reason.CORRUPT), (2**31, Reason.TRUNCATED)):
        path = zip_of(tmp_path / "a.zip", {"image.png": b"film"})
        patched(path, bytes(4) + b"image.png", struct.pack("<I", offset) + b"image.png")

        assert reason_of(path) is reason


def test_a_member_said_to_take_more_than_its_zip_has_is_truncated(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"film"}, zipfile.ZIP_STORED)
    patched(path, struct.pack("<II", 4, 4), struct.pack("<II", 4000, 4000))

    assert reason_of(path) is Reason.TRUNCATED
    with pytest.raises(FileFault, match="truncated"), open_member(path, "image.png") as stream:
        stream.read()


# --- caps


def test_the_byte_cap_is_inclusive_and_holds_for_the_unpacked_size(container):
    name, content = next(iter(FILMS.items()))

    assert read_member(container, name, None, len(content)) == content
    assert reason_of(container, name, max_bytes=len(content) - 1) is Reason.TOO_LARGE


def with_said_size(path: Path, size: int) -> Path:
    """Have a zip's directory give its only member another size."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("said", "peak", "reason"), [(4_000_000_000, 1_000_000, Reason.TOO_LARGE), (1_000_000, 5_000_000, Reason.CORRUPT)]
)
def test_a_member_that_lies_about_its_size_inflates_no_further_than_it_says(tmp_path, said, peak, reason):
    path = with_said_size(zip_of(tmp_path / "a.zip", {"image.png": bytes(200_000_000)}), said)

    assert peak_of(lambda: reason_of(path)) < peak
    assert reason_of(path) is reason


def test_a_member_that_inflates_beyond_the_ratio_is_too_large(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": bytes(2_000_000), "small.png": bytes(1_000_000)})

    assert reason_of(path) is Reason.TOO_LARGE
    assert len(read_member(path, "small.png", None, MAX_BYTES)) == 1_000_000


def test_a_film_that_is_almost_all_black_is_read_though_it_deflates_well(tmp_path):
    pixels = np.zeros((2000, 2000), np.uint16)
    pixels[900:1050, 900:1300] = np.random.default_rng(0).integers(0, 4096, (150, 400))
    path = zip_of(tmp_path / "a.zip", {"image.png": pixels.tobytes()})

    assert pixels.nbytes / path.stat().st_size > MAX_RATIO / 4
    assert read_member(path, "image.png", None, MAX_BYTES) == pixels.tobytes()


def test_a_stream_inflates_only_what_is_read_and_not_more_than_its_cap(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as container,
        container.open("image.png", "w") as out,
    ):
        for _ in range(MAX_INFLATED // 2**24 + 1):
            out.write(bytes(2**24))

    def read_head():
        with open_member(tmp_path / "a.zip", "image.png") as stream:
            assert stream.read(132) == bytes(132)

    assert peak_of(read_head) < 1_000_000
    with open_member(tmp_path / "a.zip", "image.png") as stream:
        stream.seek(-1, os.SEEK_END)
        with pytest.raises(FileFault) as caught:
            stream.read(1)
    assert caught.value.reason is Reason.TOO_LARGE


def test_overlapping_members_cost_no_more_than_each_alone(tmp_path):
    # After Fifield, "A better zip bomb" (WOOT 2019): a thousand names for one content of a gigabyte.
    path = zip_of(tmp_path / "a.zip", {"0.png": bytes(50_000_000)})
    data = path.read_bytes()
    directory = data.index(b"PK\1\2")
    entry = data[directory : data.index(b"PK\5\6")]
    entries = b"".join(entry.replace(b"0.png", b"%05d" % n) for n in range(1000))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1000, 1000, len(entries), directory, 0)
    path.write_bytes(data[:directory] + entries + end)

    assert len(paths(path)) == 1000
    assert peak_of(lambda: [reason_of(path, f"{n:05}") for n in range(1000)]) < 2_000_000
    assert reason_of(path, "00000") is Reason.TOO_LARGE


def test_a_container_with_too_many_members_is_refused_before_they_are_indexed(tmp_path):
    data = zip_of(tmp_path / "a.zip", {"0": b""}, zipfile.ZIP_STORED).read_bytes()
    directory, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entries = data[directory:end] * (members.MAX_MEMBERS + 1)
    end_record = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(entries), directory, 0)
    (tmp_path / "a.zip").write_bytes(data[:directory] + entries + end_record)

    assert peak_of(lambda: fault_of(tmp_path / "a.zip")) < 2 * len(entries)
    assert fault_of(tmp_path / "a.zip") is SkipReason.CONTAINER_TOO_LARGE


def test_a_tar_with_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MAX_MEMBERS", 1000)
    header = tarfile.TarInfo("image.png").tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(header * 1000 + bytes(1024))
    assert len(list(list_members(tmp_path / "a.tar"))) == 1000
    (tmp_path / "a.tar").write_bytes(header * 1001 + bytes(1024))

    assert fault_of(tmp_path / "a.tar") is SkipReason.CONTAINER_TOO_LARGE


def test_a_zip_directory_that_claims_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        file.truncate(2**32)
        file.seek(2**32)
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 2**32 - 1, 1, 0))

    assert peak_of(lambda: fault_of(path)) < 1_000_000
    assert fault_of(path) is SkipReason.CONTAINER_TOO_LARGE


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_tar_header_that_claims_gigabytes_is_not_read(tmp_path, kind):
    header = tarfile.TarInfo("image.png")
    header.type, header.size = kind, 2**33
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**34)

    assert peak_of(lambda: fault_of(tmp_path / "a.tar")) < 1_000_000
    assert fault_of(tmp_path / "a.tar") is SkipReason.CONTAINER_TOO_LARGE


def test_a_tar_of_nothing_but_extensions_has_no_members_and_an_end(tmp_path):
    header = tarfile.TarInfo("image.png")
    header.type = tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) * 5000 + bytes(1024))

    assert paths(tmp_path / "a.tar") == []


@pytest.mark.parametrize("size", [-512, -(2**40)])
def test_a_tar_that_leads_back_is_damaged_and_not_walked_for_ever(tmp_path, size):
    header = tarfile.TarInfo("image.png")
    header.size = size
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) * 3 + bytes(1024))

    assert fault_of(tmp_path / "a.tar") is SkipReason.DAMAGED_CONTAINER


def test_digits_without_end_in_a_pax_header_take_no_time(tmp_path):
    header = tarfile.TarInfo("image.png")
    header.type, header.size = tarfile.XHDTYPE, 60_000
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"9" * 60_416 + bytes(1024))
    started = time.process_time()

    assert fault_of(tmp_path / "a.tar") is SkipReason.DAMAGED_CONTAINER
    assert time.process_time() - started < 1


# --- damage


@pytest.mark.parametrize("content", [b"", b"film", png(1), bytes(22), b"PK\5\6" + bytes(10)])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_what_is_not_what_its_name_says_is_damaged(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)

    assert fault_of(tmp_path / f"a{suffix}") is SkipReason.DAMAGED_CONTAINER


def test_a_zip_named_tar_and_a_tar_named_zip_are_damaged(tmp_path):
    assert fault_of(zip_of(tmp_path / "a.tar", FILMS)) is SkipReason.DAMAGED_CONTAINER
    assert fault_of(tar_of(tmp_path / "a.zip", FILMS)) is SkipReason.DAMAGED_CONTAINER


def test_a_container_cut_off_anywhere_before_its_end_is_damaged(container):
    whole = container.read_bytes()
    end = whole.rindex(b"PK\5\6") + 22 if container.suffix.lower() == ".zip" else len(whole.rstrip(b"\0")) // 512 * 512
    for length in range(0, end, 97):
        container.write_bytes(whole[:length])

        assert fault_of(container) is SkipReason.DAMAGED_CONTAINER


def test_a_tar_cut_off_between_two_members_is_damaged(tmp_path):
    path = tar_of(tmp_path / "a.tar", {"image.png": b"film", "more.png": b"film"}, tarfile.USTAR_FORMAT)
    path.write_bytes(path.read_bytes()[:1024])

    assert fault_of(path) is SkipReason.DAMAGED_CONTAINER


@pytest.mark.parametrize("gap", [1024, 2**21])
def test_a_tar_that_goes_on_after_its_end_is_damaged(tmp_path, gap):
    data = tar_of(tmp_path / "a.tar", FILMS).read_bytes()
    (tmp_path / "a.tar").write_bytes(data + bytes(gap) + data)

    assert fault_of(tmp_path / "a.tar") is SkipReason.DAMAGED_CONTAINER


def test_a_tar_copied_into_space_that_was_kept_for_it_is_damaged_until_it_is_whole(tmp_path):
    path = tar_of(tmp_path / "a.tar", {"image.png": b"film", "more.png": bytes(3_000_000)})
    whole = path.read_bytes()
    path.write_bytes(whole[:1024] + bytes(len(whole) - 1024))

    assert fault_of(path) is SkipReason.DAMAGED_CONTAINER


def test_a_zip_whose_directory_is_said_to_be_empty_is_damaged(tmp_path):
    path = zip_of(tmp_path / "a.zip", FILMS)
    data = bytearray(path.read_bytes())
    data[-10:-6] = bytes(4)
    path.write_bytes(data)

    assert fault_of(path) is SkipReason.DAMAGED_CONTAINER


def test_a_zip_with_a_name_that_is_no_utf8_though_it_says_so_is_damaged(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"M\u00fcller.png": b"film"})
    patched(path, b"M\xc3\xbcller", b"M\xc3\xc3ller")

    assert fault_of(path) is SkipReason.DAMAGED_CONTAINER


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_storage_that_fails_is_not_taken_for_a_damaged_container(tmp_path, suffix):
    make, index = (zip_of, index_zip) if suffix == ".zip" else (tar_of, index_tar)
    descriptor = os.open(make(tmp_path / f"a{suffix}", FILMS), os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            index(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", ["gone.zip", "gone.tar"])
def test_a_container_that_is_missing_is_the_storages_error(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        list_members(tmp_path / name)


def test_a_fifo_named_as_a_zip_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.zip")

    with pytest.raises(FileFault, match="not a regular file"):
        list_members(tmp_path / "a.zip")


BASES = ("stored.zip", "deflated.zip", "pax.tar", "gnu.tar")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a small container of each kind, as bytes by name."""
    folder = tmp_path_factory.mktemp("whole")
    files = {"a/1.png": png(1), "a/" + "long" * 40 + "/2.png": bytes(3000), "b\\3.png": b"", "../4.png": b"film"}
    zip_of(folder / "stored.zip", files, zipfile.ZIP_STORED)
    zip_of(folder / "deflated.zip", files)
    tar_of(folder / "pax.tar", files, mtime=0.5)
    tar_of(folder / "gnu.tar", files, tarfile.GNU_FORMAT)
    return {name: (folder / name).read_bytes() for name in BASES}


LIES = [
    bytes(4),
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x80" + bytes(11),
    b"\xff" * 12,
    b"7" * 11,
    b"PK\1\2",
    b"PK\5\6",
    b"..",
    b"\0",
]
MUTATIONS = st.one_of(
    st.tuples(st.just("put"), st.floats(0, 1), st.sampled_from(LIES) | st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("put"), st.floats(0.8, 1), st.sampled_from(LIES) | st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
    st.tuples(st.just("insert"), st.floats(0, 1), st.sampled_from(LIES) | st.binary(min_size=1, max_size=600)),
    st.tuples(st.just("remove"), st.floats(0, 1), st.binary(min_size=1, max_size=600)),
)


def mutated(data: bytes, mutations, mend: bool) -> bytes:
    """Apply mutations; with `mend`, put the checksums of a tar's headers right again so that it is believed."""
    for kind, place, body in mutations:
        at = int(place * len(data))
        kept = {"put": len(body), "cut": len(data), "insert": 0, "remove": len(body)}[kind]
        data = data[:at] + (body if kind in ("put", "insert") else b"") + data[at + kept :]
    if mend:
        blocks = [data[start : start + 512] for start in range(0, len(data), 512)]
        data = b"".join(with_checksum(block) if b"ustar" in block[257:263] else block for block in blocks)
    return data


def with_checksum(block: bytes) -> bytes:
    return block[:148] + b"%06o\0 " % tarfile.calc_chksums(block.ljust(512, b"\0"))[0] + block[156:]


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.sampled_from(BASES), mutations=st.lists(MUTATIONS, min_size=1, max_size=4), mend=st.booleans())
def test_a_mutated_container_gives_members_or_a_reason_and_never_another_error(tmp_path, whole, base, mutations, mend):
    path = tmp_path / base
    path.write_bytes(mutated(whole[base], mutations, mend and base.endswith(".tar")))
    # Each example is another content of, often, one size: the file's time tells them apart, and must differ.
    os.utime(path, ns=(0, next(COUNTER)))
    try:
        listed = list(list_members(path))
    except ContainerFault:
        with pytest.raises(FileFault):
            read_image_file(tmp_path, f"{base}/a/1.png")
        return
    good = [member for member in listed if isinstance(member, Member)]
    assert len({member.path for member in good}) == len(good)
    for member in good:
        assert not member.path.startswith("/")
        assert ".." not in member.path.split("/")
        for read in (read_image_file, read_as_stream):
            with suppress(FileFault):
                assert len(read(tmp_path, f"{base}/{member.path}")) == member.size


COUNTER = iter(range(10**9))


def read_as_stream(root: Path, relative: str) -> bytes:
    with open_image(root, relative) as stream:
        return stream.read(MAX_BYTES)


# --- many readers


def test_threads_that_read_several_containers_at_once_get_each_its_own(tmp_path):
    contents = {f"{n}.zip": {f"{k}.png": png(100 * n + k) for k in range(40)} for n in range(6)}
    for name, files in contents.items():
        zip_of(tmp_path / name, files)
    wrong: list[str] = []

    def read_all(order: int) -> None:
        for k in range(40):
            for name in sorted(contents, key=lambda name: hash((name, order))):
                if read_image_file(tmp_path, f"{name}/{k}.png") != contents[name][f"{k}.png"]:
                    wrong.append(name)

    threads = [threading.Thread(target=read_all, args=(order,)) for order in range(4)]
    before = len(os.listdir("/proc/self/fd"))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_container_is_indexed_once_however_many_images_are_read(tmp_path):
    path = zip_of(tmp_path / "a.zip", {f"{n}.png": b"" for n in range(20_000)}, zipfile.ZIP_STORED)
    started = time.process_time()
    read_member(path, "0.png", None, MAX_BYTES)
    first = time.process_time() - started
    for n in range(100):
        read_member(path, f"{n}.png", None, MAX_BYTES)

    assert time.process_time() - started < 3 * first


def test_no_more_indexes_are_kept_than_the_cap_says(tmp_path, monkeypatch):
    monkeypatch.setattr(indexes, "MAX_KEPT", 4)
    files = {f"{'n' * 200}{n}.png": b"" for n in range(2000)}
    for n in range(12):
        zip_of(tmp_path / f"{n}.zip", files, zipfile.ZIP_STORED)

    def kept_after(containers: int) -> int:
        tracemalloc.start()
        for n in range(containers):
            assert len(paths(tmp_path / f"{n}.zip")) == 2000
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return kept

    assert kept_after(12) < 1.5 * kept_after(4)


def peak_of(work) -> int:
    """Return the most bytes that Python's own allocators held while `work` ran."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak
