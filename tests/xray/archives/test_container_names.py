"""Which members of a zip or a tar are images, which names are refused, and what cannot be read."""

import os
import stat
import struct
import tarfile
import zipfile

import pytest

from tests.containers import IMAGES, patched, paths, reason_of, skipped, tar_of, tar_with, with_checksum, zip_of
from xray.archives.containers import list_members, open_member, read_member
from xray.archives.files import MAX_BYTES
from xray.errors import FileFault
from xray.vocabulary import Reason, SkipReason


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
    path = (zip_of if suffix == ".zip" else tar_of)(tmp_path / f"a{suffix}", [(name, b"gray"), ("image.png", b"gray")])

    assert [reason for _, reason in skipped(path)] == [SkipReason.OUTSIDE_ARCHIVE]
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
    assert skipped(path) == [("image.png", SkipReason.DUPLICATE_NAME)]
    assert read_member(path, "image.png", None, MAX_BYTES) == b"second"


def test_folders_are_listed_neither_as_members_nor_as_passed_over(tmp_path):
    zipped = zip_of(tmp_path / "a.zip", {"study/": b"", "other\\": b"", "study/image.png": b"gray"})
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "image.png").write_bytes(b"gray")
    with tarfile.open(tmp_path / "a.tar", "w") as container:
        container.add(tmp_path / "study", "./study")

    for path in (zipped, tmp_path / "a.tar"):
        assert [member.path for member in list_members(path)] == ["study/image.png"]


def test_a_name_that_is_no_text_is_passed_over_readably(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"imageX.png": b"gray", "../\x1b[2J.png": b""})
    patched(path, b"imageX.png", b"image\0.png")

    assert sorted(skipped(path)) == [
        ("../\\x1b[2J.png", SkipReason.OUTSIDE_ARCHIVE),
        ("image\\x00.png", SkipReason.IMPOSSIBLE_NAME),
    ]


def test_a_name_in_utf8_is_understood_with_and_without_the_flag_that_says_so(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"M\u00fcller.png": b"gray"})
    assert paths(path) == ["M\u00fcller.png"]
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + flags + 1] &= ~8
    path.write_bytes(data)

    assert paths(path) == ["M\u00fcller.png"]
    assert read_member(path, "M\u00fcller.png", None, MAX_BYTES) == b"gray"


def test_a_name_in_the_code_page_of_dos_is_understood(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"MXller.png": b"gray"})

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
    path = tar_of(tmp_path / "a.tar", {name: b"gray"}, form)

    assert paths(path) == [name]
    assert read_member(path, name, None, MAX_BYTES) == b"gray"


def test_a_name_longer_than_any_path_is_passed_over_and_cut(tmp_path):
    path = tar_of(tmp_path / "a.tar", {"n" * 20_000: b"gray"})

    [(name, reason)] = skipped(path)
    assert (len(name), reason) == (1000, SkipReason.PATH_TOO_LONG)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_container_in_a_container_is_not_opened(tmp_path, suffix):
    inner = zip_of(tmp_path / "inner.zip", IMAGES).read_bytes()
    files = {"inner.zip": inner, "b.tar": b"", "c.tar.gz": b"", "d.zip/image.png": b"gray", "__MACOSX/._e.zip": b""}
    path = (zip_of if suffix == ".zip" else tar_of)(tmp_path / f"a{suffix}", files)

    assert paths(path) == ["d.zip/image.png", "__MACOSX/._e.zip"]
    assert skipped(path) == [(name, SkipReason.NESTED_CONTAINER) for name in ("inner.zip", "b.tar", "c.tar.gz")]


# --- what is no file


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_a_tar_are_special(tmp_path, kind):
    header = tarfile.TarInfo("image.png")
    header.type, header.linkname = kind, "/etc/passwd"

    assert skipped(tar_with(tmp_path / "a.tar", header)) == [("image.png", SkipReason.SPECIAL_FILE)]


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_a_sparse_member_of_a_pax_tar_is_special(tmp_path, version):
    header = tarfile.TarInfo("GNUSparseFile.1/image.png")
    header.pax_headers = {
        "GNU.sparse.major": version[0],
        "GNU.sparse.minor": version[2],
        "GNU.sparse.name": "image.png",
    }

    assert skipped(tar_with(tmp_path / "a.tar", header)) == [("image.png", SkipReason.SPECIAL_FILE)]


def test_an_old_sparse_member_is_special_and_what_follows_is_found(tmp_path):
    header = tarfile.TarInfo("image.png")
    header.type, header.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[482] = 1
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    rest = tar_of(tmp_path / "rest.tar", {"more.png": b"gray"}).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(block) + bytes(504) + b"\1" + bytes(7) + bytes(512) + b"content".ljust(512, b".") + rest)

    assert skipped(path) == [("image.png", SkipReason.SPECIAL_FILE)]
    assert read_member(path, "more.png", None, MAX_BYTES) == b"gray"


def test_a_link_in_a_zip_is_special(tmp_path):
    link = zipfile.ZipInfo("image.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16

    assert skipped(zip_of(tmp_path / "a.zip", [(link, b"/etc/passwd")])) == [("image.png", SkipReason.SPECIAL_FILE)]


# --- members that cannot be read


def test_an_encrypted_member_is_listed_and_unsupported(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)

    assert paths(path) == ["image.png"]
    assert reason_of(path) is Reason.UNSUPPORTED
    with pytest.raises(FileFault, match="encrypted"), open_member(path, "image.png"):
        pass


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_listed_and_unsupported(tmp_path, packing):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"}, packing)

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
        path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"})
        patched(path, struct.pack("<II", 6, 4), struct.pack("<II", 6, said))

        assert reason_of(path) is Reason.CORRUPT


def test_a_member_whose_header_is_not_where_its_zip_says_is_corrupt_or_truncated(tmp_path):
    for offset, reason in ((3, Reason.CORRUPT), (2**31, Reason.TRUNCATED)):
        path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"})
        patched(path, bytes(4) + b"image.png", struct.pack("<I", offset) + b"image.png")

        assert reason_of(path) is reason


def test_a_member_said_to_take_more_than_its_zip_has_is_truncated(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"}, zipfile.ZIP_STORED)
    patched(path, struct.pack("<II", 4, 4), struct.pack("<II", 4000, 4000))

    assert reason_of(path) is Reason.TRUNCATED
    with pytest.raises(FileFault, match="truncated"), open_member(path, "image.png") as stream:
        stream.read()
