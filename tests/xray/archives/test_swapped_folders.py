"""Folders and links that somebody swaps while images are read: nothing outside the archive is ever returned."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.containers import write_zip
from xray.archives.files import open_image, read_image_file
from xray.errors import FileFault

READS = 2_000

SWAP = """
import os, sys
folder, link, aside = sys.argv[1:]
print("swapping", flush=True)
while True:
    os.rename(folder, aside)
    os.rename(link, folder)
    os.rename(folder, link)
    os.rename(aside, folder)
"""


@contextmanager
def swapping(folder: Path, link: Path) -> Iterator[None]:
    """Swap a folder of an archive and a link, in a process of its own, as fast as possible."""
    command = [sys.executable, "-c", SWAP, str(folder), str(link), str(folder.with_name("aside"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive behind a link, with a folder, and a link that leads to such a folder outside."""
    for place, content in (("archive/clinic", b"inside"), ("outside", b"secret")):
        folder = tmp_path / place / "study"
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(content)
        write_zip(folder / "2.zip", {"3.png": content})
    (tmp_path / "archive/elsewhere").symlink_to(tmp_path / "outside")
    (tmp_path / "archive/within").symlink_to("clinic")
    (tmp_path / "root").symlink_to("archive")
    return tmp_path / "root"


@pytest.mark.parametrize("image", ["1.png", "2.zip/3.png"])
def test_a_folder_that_is_swapped_with_a_link_to_the_outside_gives_no_byte_from_there(root: Path, image: str) -> None:
    read: Counter[bytes] = Counter()
    with swapping(root / "clinic", root / "elsewhere"):
        # How often the folder is there when it is looked for depends on the machine.
        while read.total() < READS or not read[b"inside"] or not read[b""]:
            try:
                read[read_image_file(root, f"clinic/study/{image}")] += 1
                with open_image(root, f"clinic/study/{image}") as stream:
                    read[stream.read()] += 1
            except FileFault:
                read[b""] += 1
    assert read[b"secret"] == 0


def test_a_link_within_the_archive_and_a_root_behind_a_link_are_followed(root: Path) -> None:
    assert read_image_file(root, "within/study/1.png") == b"inside"
    assert read_image_file(root, "within/study/2.zip/3.png") == b"inside"
    with pytest.raises(FileFault, match="outside"):
        read_image_file(root, "elsewhere/study/1.png")


def test_a_folder_that_may_be_passed_but_not_listed_is_passed(root: Path) -> None:
    os.chmod(root / "clinic", 0o711)
    assert read_image_file(root, "clinic/study/1.png") == b"inside"
