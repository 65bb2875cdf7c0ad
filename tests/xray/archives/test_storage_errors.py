"""Errors of the storage that are an outage and no fault of a file."""

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from tests.archives import png
from xray.archives.files import read_image_file
from xray.archives.storage_errors import file_fault
from xray.errors import ArchiveOutage


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "EAGAIN", "ENODEV", "ENXIO", "EKEYEXPIRED", "EKEYREVOKED", "ENOKEY"])
def test_an_error_of_a_device_a_mount_or_a_key_is_an_outage_of_the_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    number = getattr(errno, name)
    with pytest.raises(ArchiveOutage, match=os.strerror(number)):
        file_fault(tmp_path, "1.png", OSError(number, os.strerror(number)))


def test_a_file_on_which_somebody_holds_a_write_lease_is_an_outage_until_it_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with (tmp_path / "1.png").open("r+b") as held:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            with pytest.raises(ArchiveOutage, match="Resource temporarily unavailable"):
                read_image_file(tmp_path, "1.png")
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            assert read_image_file(tmp_path, "1.png") == png(1)
    finally:
        signal.signal(signal.SIGIO, before)
