"""Links in zips and tars: each has the content of the member that it leads to, or is named as lost."""

import io
import stat
import tarfile
import zipfile

import pytest

from tests.containers import lost, patched, paths, reason_of, tar_of, zip_of
from xray.archives.archive_file import ArchiveFile
from xray.archives.containers import list_members, open_member, read_member
from xray.archives.files import MAX_BYTES
from xray.vocabulary import Reason, SkipReason

FORMS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]


def link(name, target, kind=tarfile.LNKTYPE):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def tar_of_links(path, files, links, form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as container:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size, header.mtime = len(content), 1000
            container.addfile(header, io.BytesIO(content))
        for header in links:
            container.addfile(header)
    return path


def zip_of_links(path, files, links):
    entries = list(files.items())
    for name, target in links.items():
        header = zipfile.ZipInfo(name)
        header.create_system, header.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        entries.append((header, target.encode()))
    return zip_of(path, entries)


def read(container, name):
    return read_member(container, name, None, MAX_BYTES)


@pytest.mark.parametrize("form", FORMS)
def test_a_hard_link_in_a_tar_is_its_target(tmp_path, form):
    path = tar_of_links(tmp_path / "a.tar", {"s1/a.png": b"gray"}, [link("s2/b.png", "s1/a.png")], form)

    one, other = list_members(path)
    assert isinstance(one, ArchiveFile)
    assert isinstance(other, ArchiveFile)
    assert (one.path, other.path, other.version) == ("s1/a.png", "s2/b.png", one.version)
    assert read_member(path, "s2/b.png", other.version, MAX_BYTES) == b"gray"
    with open_member(path, "s2/b.png") as stream:
        assert stream.read() == b"gray"


@pytest.mark.parametrize("form", FORMS)
def test_a_hard_link_to_a_name_longer_than_a_header_is_followed(tmp_path, form):
    # 96 bytes fit beside a prefix, more are a long link of GNU tar or a linkpath record of pax.
    folder = "f" * (60 if form == tarfile.USTAR_FORMAT else 120)
    name = f"{folder}/{'n' * 30}.png"
    path = tar_of_links(tmp_path / "a.tar", {name: b"gray"}, [link("b.png", name)], form)

    assert read(path, "b.png") == b"gray"


def test_a_hard_link_whose_own_name_has_a_prefix_is_found(tmp_path):
    name = f"{'f' * 90}/{'n' * 30}.png"
    path = tar_of_links(tmp_path / "a.tar", {"a.png": b"gray"}, [link(name, "./a.png")], tarfile.USTAR_FORMAT)

    assert read(path, name) == b"gray"


def test_links_to_links_are_followed_in_any_order(tmp_path):
    links = [link("d.png", "c.png"), link("b.png", "a.png"), link("c.png", "b.png", tarfile.SYMTYPE)]

    assert read(tar_of_links(tmp_path / "a.tar", {"a.png": b"gray"}, links), "d.png") == b"gray"


@pytest.mark.parametrize("size", [0, 4, 600])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_hard_link_that_carries_its_content_is_read_and_so_is_the_member_after_it(tmp_path, form, size):
    # pax -o linkdata
    path = tar_of(tmp_path / "a.tar", {"a.png": b"a" * size, "b.png": b"b" * size, "c.png": b"next"}, form)
    data = bytearray(path.read_bytes())
    at = data.index(b"b.png\0")
    header = tarfile.TarInfo("b.png")
    header.type, header.linkname, header.size = tarfile.LNKTYPE, "a.png", size
    data[at : at + 512] = header.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(data)

    assert read(path, "b.png") == (b"b" * size or b"")
    assert read(path, "c.png") == b"next"


def test_a_hard_link_of_pax_whose_content_is_all_zeros_is_read(tmp_path):
    header = link("b.png", "a.png")
    header.size, header.pax_headers = 512, {"comment": "with content"}
    with tarfile.open(tmp_path / "a.tar", "w") as container:
        container.addfile(tarfile.TarInfo("a.png"))
        container.fileobj.write(header.tobuf(tarfile.PAX_FORMAT) + bytes(512))
        container.offset = container.fileobj.tell()
        container.addfile(tarfile.TarInfo("c.png"))

    assert read(tmp_path / "a.tar", "b.png") == bytes(512)
    assert paths(tmp_path / "a.tar") == ["a.png", "b.png", "c.png"]


def test_a_hard_link_that_gives_the_size_of_its_target_without_its_content_is_its_target(tmp_path):
    header = link("b.png", "a.png")
    header.size = 4
    path = tar_of_links(tmp_path / "a.tar", {"a.png": b"gray"}, [header, link("c.png", "a.png")], tarfile.GNU_FORMAT)

    assert read(path, "b.png") == read(path, "c.png") == b"gray"


@pytest.mark.parametrize("make", ["zip", "tar"])
@pytest.mark.parametrize(
    "target", ["a.png", "./a.png", "../s1/a.png", "x/../a.png", "../latest/a.png", "../latest/../s1/a.png"]
)
def test_a_symbolic_link_is_followed_from_its_own_folder(tmp_path, make, target):
    files, links = {"s1/a.png": b"gray"}, {"s1/b.png": target, "latest": "s1"}
    if make == "zip":
        path = zip_of_links(tmp_path / "a.zip", files, links)
    else:
        headers = [link(name, text, tarfile.SYMTYPE) for name, text in links.items()]
        path = tar_of_links(tmp_path / "a.tar", files, headers)

    assert read(path, "s1/b.png") == b"gray"
    # The link to a folder is not listed: its files are.
    assert sorted(paths(path)) == ["s1/a.png", "s1/b.png"]


@pytest.mark.parametrize("make", ["zip", "tar"])
@pytest.mark.parametrize("target", ["gone.png", "/etc/passwd", "../../etc/passwd", "b.png", "C:\\a.png", ""])
def test_a_link_without_a_target_in_its_container_is_lost_and_a_broken_link(tmp_path, make, target):
    if make == "zip":
        path = zip_of_links(tmp_path / "a.zip", {"a.png": b"gray"}, {"image.png": target})
    else:
        path = tar_of_links(tmp_path / "a.tar", {"a.png": b"gray"}, [link("image.png", target, tarfile.SYMTYPE)])

    assert lost(path) == {"image.png": SkipReason.BROKEN_LINK}
    assert reason_of(path) is Reason.BROKEN_LINK


@pytest.mark.parametrize("target", ["gone.png", "/a.png", "../a.png", "image.png"])
def test_a_hard_link_without_a_target_is_lost_and_its_version_stays(tmp_path, target):
    header = link("image.png", target)
    header.mtime = 77
    path = tar_of_links(tmp_path / "a.tar", {"a.png": b"gray"}, [header])

    assert lost(path) == {"image.png": SkipReason.BROKEN_LINK}
    assert [one for one in list_members(path) if one.path == "image.png"] == [
        ArchiveFile("image.png", 0, 77 * 10**9, lost=SkipReason.BROKEN_LINK)
    ]
    assert reason_of(path, expected=(0, 77 * 10**9)) is Reason.BROKEN_LINK


def test_a_link_in_a_zip_whose_text_is_damaged_is_lost(tmp_path):
    path = zip_of_links(tmp_path / "a.zip", {"a.png": b"gray"}, {})
    header = zipfile.ZipInfo("image.png")
    header.create_system, header.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    zip_of(path, [("a.png", b"gray"), (header, b"a.png" * 2000)])

    assert lost(path) == {"image.png": SkipReason.BROKEN_LINK}
    zip_of(path, [("a.png", b"gray"), (header, b"_____")], zipfile.ZIP_STORED)
    patched(path, b"_____", b"a.png")

    assert lost(path) == {"image.png": SkipReason.BROKEN_LINK}


def test_a_link_to_a_device_is_lost(tmp_path):
    pipe = tarfile.TarInfo("pipe.png")
    pipe.type = tarfile.FIFOTYPE
    path = tar_of_links(tmp_path / "a.tar", {}, [pipe, link("image.png", "pipe.png")])

    assert set(lost(path).values()) == {SkipReason.SPECIAL_FILE}
