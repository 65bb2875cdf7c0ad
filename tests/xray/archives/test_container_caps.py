"""Caps on zips and tars: sizes and counts, also false ones, are checked before anything is inflated."""

import os
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.containers import IMAGES, fault_of, paths, peak_of, reason_of, zip_of
from xray.archives import members
from xray.archives.containers import MAX_RATIO, open_member, read_member
from xray.archives.files import MAX_BYTES
from xray.archives.members import MAX_INFLATED
from xray.errors import FileFault
from xray.vocabulary import Reason, SkipReason


def test_the_byte_cap_is_inclusive_and_applies_to_the_unpacked_size(container):
    name, content = next(iter(IMAGES.items()))

    assert read_member(container, name, None, len(content)) == content
    assert reason_of(container, name, max_bytes=len(content) - 1) is Reason.TOO_LARGE


def with_said_size(path: Path, size: int) -> Path:
    """Write another size of its only member in a zip's directory."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("said", "peak", "reason"), [(4_000_000_000, 1_000_000, Reason.TOO_LARGE), (1_000_000, 5_000_000, Reason.CORRUPT)]
)
def test_a_member_with_a_false_size_is_not_inflated_beyond_that_size(tmp_path, said, peak, reason):
    path = with_said_size(zip_of(tmp_path / "a.zip", {"image.png": bytes(200_000_000)}), said)

    assert peak_of(lambda: reason_of(path)) < peak
    assert reason_of(path) is reason


def test_a_member_that_inflates_beyond_the_ratio_is_too_large(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"image.png": bytes(2_000_000), "small.png": bytes(1_000_000)})

    assert reason_of(path) is Reason.TOO_LARGE
    assert len(read_member(path, "small.png", None, MAX_BYTES)) == 1_000_000


def test_an_image_that_is_almost_completely_black_is_read_although_it_deflates_well(tmp_path):
    pixels = np.zeros((2000, 2000), np.uint16)
    pixels[900:1050, 900:1300] = np.random.default_rng(0).integers(0, 4096, (150, 400))
    path = zip_of(tmp_path / "a.zip", {"image.png": pixels.tobytes()})

    assert pixels.nbytes / path.stat().st_size > MAX_RATIO / 4
    assert read_member(path, "image.png", None, MAX_BYTES) == pixels.tobytes()


def test_a_stream_inflates_only_what_is_read_up_to_its_cap(tmp_path):
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


def test_overlapping_members_cost_no_more_memory_than_one(tmp_path):
    # After Fifield (WOOT 2019): a thousand names for one content.
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
    assert paths(tmp_path / "a.tar") == ["image.png"]
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


def test_a_tar_of_extension_headers_only_has_no_members(tmp_path):
    header = tarfile.TarInfo("image.png")
    header.type = tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) * 5000 + bytes(1024))

    assert paths(tmp_path / "a.tar") == []


@pytest.mark.parametrize("size", [-512, -(2**40)])
def test_a_tar_with_negative_sizes_is_damaged_and_reading_it_ends(tmp_path, size):
    header = tarfile.TarInfo("image.png")
    header.size = size
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) * 3 + bytes(1024))

    assert fault_of(tmp_path / "a.tar") is SkipReason.DAMAGED_CONTAINER


def test_many_digits_in_a_pax_header_are_refused_quickly(tmp_path):
    header = tarfile.TarInfo("image.png")
    header.type, header.size = tarfile.XHDTYPE, 60_000
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"9" * 60_416 + bytes(1024))
    started = time.process_time()

    assert fault_of(tmp_path / "a.tar") is SkipReason.DAMAGED_CONTAINER
    assert time.process_time() - started < 1
