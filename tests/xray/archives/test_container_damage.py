"""Damaged and mutated zips and tars, and many readers of them at once."""

import os
import tarfile
import threading
import time
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.archives import png
from tests.containers import IMAGES, fault_of, patched, paths, tar_of, with_checksum, zip_of
from xray.archives import containers
from xray.archives.archive_file import ArchiveFile
from xray.archives.containers import list_members, read_member
from xray.archives.files import MAX_BYTES, open_image, read_image_file
from xray.archives.regular_files import ByteRange
from xray.archives.tars import index_tar
from xray.archives.zips import index_zip
from xray.errors import ContainerFault, FileFault
from xray.vocabulary import SkipReason


@pytest.mark.parametrize("content", [b"", b"gray", png(1), bytes(22), b"PK\5\6" + bytes(10)])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_file_that_is_not_what_its_name_says_is_damaged(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)

    assert fault_of(tmp_path / f"a{suffix}") is SkipReason.DAMAGED_CONTAINER


def test_a_zip_named_tar_and_a_tar_named_zip_are_damaged(tmp_path):
    assert fault_of(zip_of(tmp_path / "a.tar", IMAGES)) is SkipReason.DAMAGED_CONTAINER
    assert fault_of(tar_of(tmp_path / "a.zip", IMAGES)) is SkipReason.DAMAGED_CONTAINER


def test_a_container_cut_off_anywhere_before_its_end_is_damaged(container):
    whole = container.read_bytes()
    end = whole.rindex(b"PK\5\6") + 22 if container.suffix.lower() == ".zip" else len(whole.rstrip(b"\0")) // 512 * 512
    for length in range(0, end, 97):
        container.write_bytes(whole[:length])

        assert fault_of(container) is SkipReason.DAMAGED_CONTAINER


def test_a_tar_cut_off_between_two_members_is_damaged(tmp_path):
    path = tar_of(tmp_path / "a.tar", {"image.png": b"gray", "more.png": b"gray"}, tarfile.USTAR_FORMAT)
    path.write_bytes(path.read_bytes()[:1024])

    assert fault_of(path) is SkipReason.DAMAGED_CONTAINER


@pytest.mark.parametrize("gap", [1024, 2**21])
def test_a_tar_that_continues_after_its_end_is_damaged(tmp_path, gap):
    data = tar_of(tmp_path / "a.tar", IMAGES).read_bytes()
    (tmp_path / "a.tar").write_bytes(data + bytes(gap) + data)

    assert fault_of(tmp_path / "a.tar") is SkipReason.DAMAGED_CONTAINER


def test_a_tar_copied_into_preallocated_space_is_damaged_until_it_is_complete(tmp_path):
    path = tar_of(tmp_path / "a.tar", {"image.png": b"gray", "more.png": bytes(3_000_000)})
    whole = path.read_bytes()
    path.write_bytes(whole[:1024] + bytes(len(whole) - 1024))

    assert fault_of(path) is SkipReason.DAMAGED_CONTAINER


def test_a_zip_whose_end_record_gives_an_empty_directory_is_damaged(tmp_path):
    path = zip_of(tmp_path / "a.zip", IMAGES)
    data = bytearray(path.read_bytes())
    data[-10:-6] = bytes(4)
    path.write_bytes(data)

    assert fault_of(path) is SkipReason.DAMAGED_CONTAINER


def test_a_zip_whose_name_is_flagged_as_utf8_and_is_not_is_damaged(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"M\u00fcller.png": b"gray"})
    patched(path, b"M\xc3\xbcller", b"M\xc3\xc3ller")

    assert fault_of(path) is SkipReason.DAMAGED_CONTAINER


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_storage_error_is_not_reported_as_a_damaged_container(tmp_path, suffix):
    make, index = (zip_of, index_zip) if suffix == ".zip" else (tar_of, index_tar)
    descriptor = os.open(make(tmp_path / f"a{suffix}", IMAGES), os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            index(ByteRange(descriptor))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", ["gone.zip", "gone.tar"])
def test_a_missing_container_is_a_storage_error(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        list_members(tmp_path / name)


def test_a_fifo_named_like_a_zip_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.zip")

    with pytest.raises(FileFault, match="not a regular file"):
        list_members(tmp_path / "a.zip")


BASES = ("stored.zip", "deflated.zip", "pax.tar", "gnu.tar")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a small container of each kind, as bytes by name."""
    folder = tmp_path_factory.mktemp("whole")
    files = {"a/1.png": png(1), "a/" + "long" * 40 + "/2.png": bytes(3000), "b\\3.png": b"", "../4.png": b"gray"}
    zip_of(folder / "stored.zip", files, zipfile.ZIP_STORED)
    zip_of(folder / "deflated.zip", files)
    tar_of(folder / "pax.tar", files, mtime=0.5)
    tar_of(folder / "gnu.tar", files, tarfile.GNU_FORMAT)
    return {name: (folder / name).read_bytes() for name in BASES}


FALSE_BYTES = [
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
    st.tuples(st.just("put"), st.floats(0, 1), st.sampled_from(FALSE_BYTES) | st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("put"), st.floats(0.8, 1), st.sampled_from(FALSE_BYTES) | st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
    st.tuples(st.just("insert"), st.floats(0, 1), st.sampled_from(FALSE_BYTES) | st.binary(min_size=1, max_size=600)),
    st.tuples(st.just("remove"), st.floats(0, 1), st.binary(min_size=1, max_size=600)),
)


def mutated(data: bytes, mutations, repair: bool) -> bytes:
    """Apply mutations; with `repair`, correct the checksums of a tar's headers, so that they are accepted."""
    for kind, place, body in mutations:
        at = int(place * len(data))
        kept = {"put": len(body), "cut": len(data), "insert": 0, "remove": len(body)}[kind]
        data = data[:at] + (body if kind in ("put", "insert") else b"") + data[at + kept :]
    if repair:
        blocks = [data[start : start + 512] for start in range(0, len(data), 512)]
        data = b"".join(with_checksum(block) if b"ustar" in block[257:263] else block for block in blocks)
    return data


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.sampled_from(BASES), mutations=st.lists(MUTATIONS, min_size=1, max_size=4), repair=st.booleans())
def test_a_mutated_container_gives_members_or_a_fault_and_no_other_error(tmp_path, whole, base, mutations, repair):
    path = tmp_path / base
    path.write_bytes(mutated(whole[base], mutations, repair and base.endswith(".tar")))
    # Each example is another content of, often, one size: the file's time tells them apart, and must differ.
    os.utime(path, ns=(0, next(COUNTER)))
    try:
        listed = list(list_members(path))
    except ContainerFault:
        with pytest.raises(FileFault):
            read_image_file(tmp_path, f"{base}/a/1.png")
        return
    good = [member for member in listed if isinstance(member, ArchiveFile)]
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


def test_threads_that_read_several_containers_at_once_get_the_right_content(tmp_path):
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


def test_a_container_is_indexed_once_for_any_number_of_images(tmp_path):
    path = zip_of(tmp_path / "a.zip", {f"{n}.png": b"" for n in range(20_000)}, zipfile.ZIP_STORED)
    started = time.process_time()
    read_member(path, "0.png", None, MAX_BYTES)
    first = time.process_time() - started
    for n in range(100):
        read_member(path, f"{n}.png", None, MAX_BYTES)

    assert time.process_time() - started < 3 * first


def test_the_number_of_cached_indexes_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_CACHED", 4)
    files = {f"{'n' * 200}{n}.png": b"" for n in range(2000)}
    for n in range(12):
        zip_of(tmp_path / f"{n}.zip", files, zipfile.ZIP_STORED)

    def kept_after(number: int) -> int:
        tracemalloc.start()
        for n in range(number):
            assert len(paths(tmp_path / f"{n}.zip")) == 2000
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return kept

    assert kept_after(12) < 1.5 * kept_after(4)
