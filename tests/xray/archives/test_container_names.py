"""Names of members that are accepted or skipped, and members that cannot be read."""

import io
import os
import stat
import struct
import tarfile
import zipfile

import pytest

from tests.containers import (
    fault_of,
    lost,
    patched,
    paths,
    reason_of,
    skipped,
    tar_of,
    tar_with,
    with_checksum,
    zip_of,
)
from xray.archives.archive_file import ArchiveFile
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
def test_a_name_that_leads_out_of_the_container_is_skipped(tmp_path, suffix, name):
    path = (zip_of if suffix == ".zip" else tar_of)(tmp_path / f"a{suffix}", [(name, b"gray"), ("image.png", b"gray")])

    assert [reason for _, reason in skipped(path)] == [SkipReason.OUTSIDE_ARCHIVE]
    assert paths(path) == ["image.png"]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_names_are_normalised(tmp_path, suffix):
    make = zip_of if suffix == ".zip" else tar_of
    path = make(tmp_path / f"a{suffix}", {"./a/./image.png": b"1", "b\\image.png": b"2", "c//image.png": b"3"})

    assert paths(path) == ["a/image.png", "b/image.png", "c/image.png"]
    assert read_member(path, "b/image.png", None, MAX_BYTES) == b"2"


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("first", [b"other.", b"longer"])
def test_if_a_name_repeats_the_last_member_counts_and_the_others_are_kept_as_lost(tmp_path, suffix, first):
    files = [("image.png", first), ("image.png", b"third."), ("./image.png", b"second")]
    path = (zip_of if suffix == ".zip" else tar_of)(tmp_path / f"a{suffix}", files)

    replaced = ["image (replaced 1).png", "image (replaced 2).png"]
    assert lost(path) == dict.fromkeys(replaced, SkipReason.DUPLICATE_NAME)
    assert sorted(paths(path)) == [*replaced, "image.png"]
    assert read_member(path, "image.png", None, MAX_BYTES) == b"second"
    with pytest.raises(FileFault, match="another file of the same name"):
        read_member(path, replaced[0], None, MAX_BYTES)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_file_that_is_packed_twice_is_one_member(tmp_path, suffix):
    files = [("image.png", b"gray"), ("image.png", b"gray")]

    path = (zip_of if suffix == ".zip" else tar_of)(tmp_path / f"a{suffix}", files)
    assert paths(path) == ["image.png"]


def test_a_member_that_a_later_one_brings_up_to_date_is_not_lost(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as container:
        for mtime, content in ((1, b"first"), (2, b"second")):
            header = tarfile.TarInfo("image.png")
            header.size, header.mtime = len(content), mtime
            container.addfile(header, io.BytesIO(content))

    assert paths(tmp_path / "a.tar") == ["image.png"]
    assert read_member(tmp_path / "a.tar", "image.png", None, MAX_BYTES) == b"second"


def test_folders_are_neither_listed_nor_skipped(tmp_path):
    zipped = zip_of(tmp_path / "a.zip", {"study/": b"", "other\\": b"", "study/image.png": b"gray"})
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "image.png").write_bytes(b"gray")
    with tarfile.open(tmp_path / "a.tar", "w") as container:
        container.add(tmp_path / "study", "./study")

    for path in (zipped, tmp_path / "a.tar"):
        assert [member.path for member in list_members(path)] == ["study/image.png"]


def test_a_name_with_control_characters_is_skipped_and_written_readably(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"imageX.png": b"gray", "../\x1b[2J.png": b""})
    patched(path, b"imageX.png", b"image\0.png")

    assert sorted(skipped(path)) == [
        ("../\\x1b[2J.png", SkipReason.OUTSIDE_ARCHIVE),
        ("image\\x00.png", SkipReason.IMPOSSIBLE_NAME),
    ]


def test_a_utf8_name_is_decoded_with_and_without_the_utf8_flag(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"M\u00fcller.png": b"gray"})
    assert paths(path) == ["M\u00fcller.png"]
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + flags + 1] &= ~8
    path.write_bytes(data)

    assert paths(path) == ["M\u00fcller.png"]
    assert read_member(path, "M\u00fcller.png", None, MAX_BYTES) == b"gray"


def test_a_name_in_code_page_437_is_decoded(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"MXller.png": b"gray"})

    assert paths(patched(path, b"MXller", b"M\x81ller")) == ["M\u00fcller.png"]


def test_times_in_the_headers_of_an_incremental_tar_are_not_read_as_names(tmp_path):
    block = bytearray(tar_of(tmp_path / "a.tar", {"image.png": b""}, tarfile.GNU_FORMAT).read_bytes())
    block[345:357] = b"15301642007\0"
    block[:512] = with_checksum(bytes(block[:512]))
    (tmp_path / "a.tar").write_bytes(block)

    assert paths(tmp_path / "a.tar") == ["image.png"]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_bytes_in_a_tars_name_that_are_not_utf8_are_written_readably_and_read_back(tmp_path, form):
    path = tar_of(tmp_path / "a.tar", {os.fsdecode(b"M\xfcller.png"): b"gray"}, form)

    assert paths(path) == [r"M\xfcller.png"]
    assert read_member(path, r"M\xfcller.png", None, MAX_BYTES) == b"gray"


def test_a_name_that_is_too_long_is_skipped_and_shortened(tmp_path):
    path = tar_of(tmp_path / "a.tar", {"n" * 20_000: b"gray"})

    [(name, reason)] = skipped(path)
    assert (len(name), reason) == (1000, SkipReason.PATH_TOO_LONG)


# --- special files


SPECIAL = {"image.png": SkipReason.SPECIAL_FILE}


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_in_a_tar_are_lost(tmp_path, kind):
    header = tarfile.TarInfo("image.png")
    header.type = kind

    assert lost(tar_with(tmp_path / "a.tar", header)) == SPECIAL
    assert reason_of(tmp_path / "a.tar") is Reason.UNREADABLE


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_a_sparse_member_of_a_pax_tar_is_a_special_file(tmp_path, version):
    header = tarfile.TarInfo("GNUSparseFile.1/image.png")
    header.pax_headers = {
        "GNU.sparse.major": version[0],
        "GNU.sparse.minor": version[2],
        "GNU.sparse.name": "image.png",
    }

    assert lost(tar_with(tmp_path / "a.tar", header)) == SPECIAL


def test_an_old_gnu_sparse_member_is_a_special_file_and_the_next_member_is_found(tmp_path):
    header = tarfile.TarInfo("image.png")
    header.type, header.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[482] = 1
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    rest = tar_of(tmp_path / "rest.tar", {"more.png": b"gray"}).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(block) + bytes(504) + b"\1" + bytes(7) + bytes(512) + b"content".ljust(512, b".") + rest)

    assert lost(path) == SPECIAL
    assert read_member(path, "more.png", None, MAX_BYTES) == b"gray"


def test_a_device_in_a_zip_is_lost(tmp_path):
    device = zipfile.ZipInfo("image.png")
    device.create_system, device.external_attr = 3, (stat.S_IFCHR | 0o666) << 16

    assert lost(zip_of(tmp_path / "a.zip", [(device, b"")])) == SPECIAL


# --- members that cannot be read


ENCRYPTED = {8: 1}
STRONGLY_ENCRYPTED = {8: 0x41}
DEFLATE64 = {10: 9}
PATCHED = {8: 0x20}


def with_directory(path, changes, only: bytes = b""):
    """Change bytes in a zip's directory, of all members or of one."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    while at >= 0:
        if only in data[at + 46 : at + 100]:
            for offset, value in changes.items():
                data[at + offset] = value
        at = data.find(b"PK\1\2", at + 4)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (ENCRYPTED, SkipReason.ENCRYPTED_CONTAINER),
        (STRONGLY_ENCRYPTED, SkipReason.ENCRYPTED_CONTAINER),
        (DEFLATE64, SkipReason.UNKNOWN_PACKING),
        (PATCHED, SkipReason.UNKNOWN_PACKING),
    ],
)
def test_a_zip_in_which_every_image_is_encrypted_or_packed_in_an_unknown_way_is_a_fault(tmp_path, changes, reason):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"gray", "more": b"gray", "readme.txt": b"text"})

    assert fault_of(with_directory(path, changes)) is reason


@pytest.mark.parametrize("name", ["readme.txt", "VIEWER.EXE", "DICOMDIR", "__MACOSX/._1.png"])
def test_a_readable_file_that_cannot_be_an_image_does_not_hide_that_the_images_are_encrypted(tmp_path, name):
    path = zip_of(tmp_path / "a.zip", {"IM0001": b"gray", name: b"text"})

    assert fault_of(with_directory(path, ENCRYPTED, b"IM0001")) is SkipReason.ENCRYPTED_CONTAINER


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_is_packed_by_another_method_is_a_fault(tmp_path, packing):
    assert fault_of(zip_of(tmp_path / "a.zip", {"image.png": b"gray"}, packing)) is SkipReason.UNKNOWN_PACKING


def test_a_zip_whose_directory_is_encrypted_is_an_encrypted_one(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"})
    data = bytearray(path.read_bytes())
    data[6:8] = struct.pack("<H", 0x2041)
    data[data.index(b"PK\1\2") : data.index(b"PK\5\6")] = os.urandom(data.index(b"PK\5\6") - data.index(b"PK\1\2"))
    path.write_bytes(data)

    assert fault_of(path) is SkipReason.ENCRYPTED_CONTAINER


@pytest.mark.parametrize("changes", [ENCRYPTED, DEFLATE64])
def test_if_only_some_images_are_encrypted_they_are_unsupported_and_the_zip_is_named_once(tmp_path, changes):
    files = {f"closed{n}.png": b"gray" for n in range(3)} | {"image.png": b"gray"}
    path = with_directory(zip_of(tmp_path / "a.zip", files), changes, b"closed")

    assert paths(path) == list(files)
    assert skipped(path) == [("a.zip", SkipReason.UNREADABLE_MEMBERS)]
    assert reason_of(path, "closed1.png") is Reason.UNSUPPORTED
    assert read_member(path, "image.png", None, MAX_BYTES) == b"gray"
    with pytest.raises(FileFault) as caught, open_member(path, "closed1.png"):
        pass
    assert caught.value.reason is Reason.UNSUPPORTED


def test_a_member_that_is_packed_again_without_a_password_is_another_version(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"closed.png": b"gray", "image.png": b"gray"})
    after = {member.path: member.version for member in list_members(path) if isinstance(member, ArchiveFile)}
    with_directory(path, ENCRYPTED, b"closed")
    before = {member.path: member.version for member in list_members(path) if isinstance(member, ArchiveFile)}

    assert before["image.png"] == after["image.png"]
    assert before["closed.png"] != after["closed.png"]


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_whose_bytes_were_damaged_is_corrupt(tmp_path, packing):
    content = os.urandom(2000)
    path = zip_of(tmp_path / "a.zip", {"image.png": content, "next.png": content}, packing)
    data = bytearray(path.read_bytes())
    data[500] ^= 0x10
    path.write_bytes(data)

    assert reason_of(path) is Reason.CORRUPT
    assert read_member(path, "next.png", None, MAX_BYTES) == content


def test_a_member_with_another_size_than_its_zip_says_is_corrupt(tmp_path):
    for said in (3, 5):
        path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"})
        patched(path, struct.pack("<II", 6, 4), struct.pack("<II", 6, said))

        assert reason_of(path) is Reason.CORRUPT


def test_a_member_whose_header_is_not_where_its_zip_says_is_corrupt_or_truncated(tmp_path):
    for offset, reason in ((3, Reason.CORRUPT), (2**31, Reason.TRUNCATED)):
        path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"})
        patched(path, bytes(4) + b"image.png", struct.pack("<I", offset) + b"image.png")

        assert reason_of(path) is reason


def test_a_member_larger_than_its_zip_is_truncated(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": b"gray"}, zipfile.ZIP_STORED)
    patched(path, struct.pack("<II", 4, 4), struct.pack("<II", 4000, 4000))

    assert reason_of(path) is Reason.TRUNCATED
    with pytest.raises(FileFault, match="truncated"), open_member(path, "image.png") as stream:
        stream.read()
