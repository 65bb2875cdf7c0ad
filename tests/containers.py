"""Zips and tars for tests, and what listing and reading them gives."""

import io
import tarfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import pytest

from tests.archives import png
from xray.archives.archive_file import ArchiveFile, Skipped, path_as_text
from xray.archives.containers import list_members, read_member
from xray.archives.files import MAX_BYTES
from xray.errors import ContainerFault, FileFault
from xray.vocabulary import Reason, SkipReason

IMAGES = {f"XR_HAND/patient{n}/study1_positive/image1.png": png(n) for n in range(3)}
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
    """Replace one sequence of bytes, which must be there, by another."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def paths(container: Path) -> list[str]:
    return [member.path for member in list_members(container) if isinstance(member, ArchiveFile)]


def skipped(container: Path) -> list[tuple[str, str]]:
    found = [member for member in list_members(container) if isinstance(member, Skipped)]
    return [(path_as_text(member.path), member.reason) for member in found]


def lost(container: Path) -> dict[str, str | None]:
    """Return the members that cannot be read, each with the reason."""
    found = [member for member in list_members(container) if isinstance(member, ArchiveFile)]
    return {member.path: member.lost for member in found if member.lost is not None}


def reason_of(container: Path, member: str = "image.png", expected=None, max_bytes: int = MAX_BYTES) -> Reason:
    with pytest.raises(FileFault) as caught:
        read_member(container, member, expected, max_bytes)
    assert "image" not in caught.value.detail
    assert "/" not in caught.value.detail
    return caught.value.reason


def fault_of(container: Path) -> SkipReason:
    with pytest.raises(ContainerFault) as caught:
        list(list_members(container))
    assert "/" not in str(caught.value)
    return caught.value.reason


def with_checksum(block: bytes) -> bytes:
    return block[:148] + b"%06o\0 " % tarfile.calc_chksums(block.ljust(512, b"\0"))[0] + block[156:]


def peak_of(work) -> int:
    """Return the most bytes that Python's own allocators held while `work` ran."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            file.addfile(about, io.BytesIO(data))
