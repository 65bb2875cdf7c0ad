"""The example archive that ships: what its README says of it is so."""

import re
from pathlib import Path

import pytest

from producer.layout_detection import detect_layout
from producer.walk import walk
from xray.archives.archive_file import ArchiveFile, Placement
from xray.archives.files import read_image_file
from xray.archives.layouts import placement_from_path
from xray.errors import FileFault
from xray.images.decode import decode
from xray.vocabulary import Label, Layout, Reason

EXAMPLES = Path(__file__).parents[1] / "examples"
ROOT = EXAMPLES / "archive"
TRUNCATED = "XR_HAND/patient00005/study1_negative/image2.jpg"


def images() -> dict[str, Placement]:
    found = {
        seen.path: placement_from_path(seen.path, Layout.MURA, ROOT)
        for seen in walk(ROOT)
        if isinstance(seen, ArchiveFile)
    }
    return {path: placed for path, placed in found.items() if isinstance(placed, Placement)}


def test_it_is_told_for_a_mura_archive_of_ten_studies_of_two_images():
    assert detect_layout(ROOT) is Layout.MURA
    assert len(images()) == 20
    assert len({placed.study for placed in images().values()}) == 10


def test_one_image_is_truncated_and_all_others_decode():
    for path in images():
        if path != TRUNCATED:
            assert decode(read_image_file(ROOT, path)).size > 0

    with pytest.raises(FileFault) as fault:
        decode(read_image_file(ROOT, TRUNCATED))
    assert fault.value.reason is Reason.TRUNCATED


def test_its_readme_names_the_origin_and_label_of_every_image():
    readme = (EXAMPLES / "README.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| `(IMG\d{7}\.jpg)` \| (yes|no)", readme, re.MULTILINE)

    fractured = {placement_from_path(path, Layout.MURA, ROOT).study for path, _, mark in rows if mark == "yes"}
    assert {path for path, _, _ in rows} == set(images())
    assert len({origin for _, origin, _ in rows}) == 20
    assert fractured == {placed.study for placed in images().values() if placed.human_label is Label.POSITIVE}
