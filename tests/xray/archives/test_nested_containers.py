"""Zips and tars in zips and tars are read one level down, in bounded memory; what is packed deeper is named once."""

import os
import struct
import zipfile

import pytest

from tests.containers import IMAGES, fault_of, patched, paths, peak_of, reason_of, skipped, tar_of, zip_of
from xray.archives import containers
from xray.archives.archive_file import ArchiveFile
from xray.archives.containers import list_members, open_member, read_member
from xray.archives.files import MAX_BYTES
from xray.vocabulary import Reason, SkipReason

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


@pytest.fixture(params=["stored in zip", "deflated in zip", "in tar"])
def pack(request, tmp_path):
    """Return a function that packs files in a container of each kind."""

    def outer(files, name="outer"):
        if request.param == "in tar":
            return tar_of(tmp_path / f"{name}.tar", files)
        return zip_of(tmp_path / f"{name}.zip", files, DEFLATED if request.param.startswith("deflated") else STORED)

    return outer


@pytest.mark.parametrize("inner", ["inner.zip", "inner.TAR"])
def test_the_members_of_a_nested_container_are_listed_and_read(tmp_path, pack, inner):
    content = (tar_of if inner.endswith("TAR") else zip_of)(tmp_path / inner, IMAGES).read_bytes()
    path = pack({"before.png": b"gray", f"2024/{inner}": content})

    expected = {"before.png": b"gray"} | {f"2024/{inner}/{name}": data for name, data in IMAGES.items()}
    listed = {member.path: member for member in list_members(path) if isinstance(member, ArchiveFile)}
    assert set(listed) == set(expected)
    for name, data in expected.items():
        assert read_member(path, name, listed[name].version, MAX_BYTES) == data
        with open_member(path, name) as stream:
            assert stream.read() == data
    assert skipped(path) == []


def test_a_nested_container_is_inflated_once_for_all_its_images(tmp_path, monkeypatch):
    files = {f"{number}.png": os.urandom(50_000) for number in range(20)}
    inner = zip_of(tmp_path / "inner.zip", files).read_bytes()
    path = zip_of(tmp_path / "outer.zip", {"inner.zip": inner})
    for name, data in files.items():
        assert read_member(path, f"inner.zip/{name}", None, MAX_BYTES) == data

    assert [key[0] for key in containers._inflated_contents].count(str(path)) == 1


def test_only_so_many_inflated_bytes_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_NESTED_BYTES", 1_000_000)
    inner = zip_of(tmp_path / "inner.zip", {"image.png": os.urandom(300_000)}, STORED).read_bytes()
    files = {f"{number}.zip": inner for number in range(10)}
    path = zip_of(tmp_path / "outer.zip", files)

    assert len(paths(path)) == 10
    assert sum(map(len, containers._inflated_contents.values())) <= 1_000_000
    assert all(read_member(path, f"{number}.zip/image.png", None, MAX_BYTES) for number in range(10))
    assert sum(map(len, containers._inflated_contents.values())) <= 1_000_000


def test_what_is_packed_deeper_is_named_once_with_its_container(tmp_path, pack):
    inner = zip_of(tmp_path / "inner.zip", IMAGES).read_bytes()
    middle = zip_of(tmp_path / "middle.zip", {f"{n}.zip": inner for n in range(5)} | {"a.png": b"gray"}).read_bytes()
    path = pack({"middle.zip": middle, "b.tar.gz": b"", "c.tgz": b"", "__MACOSX/._e.zip": b"", "d.zip/f.png": b"gray"})

    assert skipped(path) == [(path.name, SkipReason.NESTED_CONTAINER)]
    assert sorted(paths(path)) == ["__MACOSX/._e.zip", "d.zip/f.png", "middle.zip/a.png"]


def test_a_nested_container_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path, pack):
    good = zip_of(tmp_path / "good.zip", {"image.png": b"gray"}).read_bytes()
    encrypted = bytearray(good)
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    path = pack({"good.zip": good, "cut.zip": good[:-30], "closed.zip": bytes(encrypted), "empty.tar": b""})

    assert paths(path) == ["good.zip/image.png"]
    assert sorted(skipped(path)) == [
        ("closed.zip", SkipReason.ENCRYPTED_CONTAINER),
        ("cut.zip", SkipReason.DAMAGED_CONTAINER),
        ("empty.tar", SkipReason.DAMAGED_CONTAINER),
    ]


def test_a_zip_of_encrypted_zips_only_is_an_encrypted_one(tmp_path, pack):
    inner = bytearray(zip_of(tmp_path / "good.zip", {"image.png": b"gray"}).read_bytes())
    inner[inner.index(b"PK\1\2") + 8] |= 1

    path = pack({"1.zip": bytes(inner), "2.zip": bytes(inner), "readme.txt": b"text"})
    assert fault_of(path) is SkipReason.ENCRYPTED_CONTAINER


def test_an_encrypted_zip_of_zips_is_named_as_one(tmp_path):
    inner = zip_of(tmp_path / "inner.zip", IMAGES).read_bytes()
    path = zip_of(tmp_path / "outer.zip", {"1.zip": inner}, STORED)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)

    assert fault_of(path) is SkipReason.ENCRYPTED_CONTAINER


def test_the_number_of_members_is_limited_over_all_nested_containers(tmp_path, monkeypatch, pack):
    from xray.archives import members

    monkeypatch.setattr(members, "MAX_MEMBERS", 50)
    inner = zip_of(tmp_path / "inner.zip", {f"{n}.png": b"" for n in range(20)}, STORED).read_bytes()
    assert len(paths(pack({f"{n}.zip": inner for n in range(2)}, "few"))) == 40

    assert fault_of(pack({f"{n}.zip": inner for n in range(3)}, "many")) is SkipReason.CONTAINER_TOO_LARGE


def test_the_number_of_nested_containers_is_limited(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(containers, "MAX_NESTED", 3)
    inner = zip_of(tmp_path / "inner.zip", {"a.png": b""}).read_bytes()
    assert len(paths(pack({f"{n}.zip": inner for n in range(3)}, "few"))) == 3

    assert fault_of(pack({f"{n}.zip": inner for n in range(4)}, "many")) is SkipReason.CONTAINER_TOO_LARGE


def test_a_nested_container_over_a_cap_is_not_inflated(tmp_path, monkeypatch):
    inner = zip_of(tmp_path / "inner.zip", {"image.png": bytes(30_000_000)}, STORED).read_bytes()
    path = zip_of(tmp_path / "bomb.zip", {"inner.zip": inner})

    assert peak_of(lambda: list(list_members(path))) < 1_000_000
    assert skipped(path) == [("inner.zip", SkipReason.CONTAINER_TOO_LARGE)]
    monkeypatch.setattr(containers, "MAX_INDEXED_BYTES", 700_000)
    inner = zip_of(tmp_path / "inner.zip", {"image.png": os.urandom(300_000)}, STORED).read_bytes()
    many = zip_of(tmp_path / "many.zip", {f"{n}.zip": inner for n in range(4)})

    assert [reason for _, reason in skipped(many)] == [SkipReason.CONTAINER_TOO_LARGE] * 2


@pytest.mark.parametrize("packed", [0, 2**31])
def test_a_nested_container_with_a_false_size_is_damaged(tmp_path, packed):
    inner = zip_of(tmp_path / "inner.zip", {"image.png": b"gray"}).read_bytes()
    path = zip_of(tmp_path / "outer.zip", {"inner.zip": inner}, STORED)
    sizes = struct.pack("<II", len(inner) + packed, len(inner) + 2**31)
    patched(path, struct.pack("<II", len(inner), len(inner)), sizes)

    assert skipped(path) == [("inner.zip", SkipReason.DAMAGED_CONTAINER)]


def test_a_nested_member_that_changed_is_not_read_as_the_earlier_one(tmp_path):
    def written(content):
        inner = zip_of(tmp_path / "inner.zip", {"image.png": content}).read_bytes()
        return zip_of(tmp_path / "outer.zip", {"inner.zip": inner})

    [before] = list_members(written(b"gray"))
    assert isinstance(before, ArchiveFile)
    path = written(b"bone")

    assert reason_of(path, "inner.zip/image.png", expected=before.version) is Reason.CHANGED
