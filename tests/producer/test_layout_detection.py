"""Detecting an archive's layout: by a sample of its paths, and in an archive of any size."""

import itertools
import subprocess
import sys
from pathlib import PurePosixPath

import pytest

from producer.layout_detection import FOLDER_MAX_IMAGES, detect_layout, layout_of_sample
from tests.archives import flat_tree, folder_tree, mura_tree
from xray.vocabulary import Layout

ROOT = PurePosixPath("/data/archive")
STUDY = "XR_HUMERUS/patient00001/study1_positive"


def test_dicom_files_make_the_layout_unless_other_images_are_far_more_or_lie_as_in_mura():
    names = ["a/1", "a/2", "a/3.png"]
    assert layout_of_sample(names, ROOT, dicom=2) is Layout.DICOM
    assert layout_of_sample(names, ROOT, dicom=0) is Layout.FOLDER
    icons = [f"viewer/{number}.png" for number in range(15)]
    assert layout_of_sample([*names, *icons], ROOT, dicom=2) is Layout.DICOM
    images = [f"{number}/image.png" for number in range(25)]
    assert layout_of_sample([*names, *images], ROOT, dicom=2) is Layout.FOLDER
    mura = ["XR_HAND/patient00001/study1_positive/image1.dcm"]
    assert layout_of_sample(mura, ROOT, dicom=1) is Layout.MURA


def paths(folder: str, images: int) -> list[str]:
    return [f"{folder}/{number}.png" for number in range(images)]


def test_study_folders_make_it_mura_in_spite_of_some_others():
    sample = [*paths(STUDY, 3), *paths("XR_HAND/patient1/study1", 2), "loose.png", f"{STUDY}/._0.png", "index.csv"]

    assert layout_of_sample(sample, ROOT) is Layout.MURA


def test_a_single_mura_study_is_mura():
    assert layout_of_sample(["image1.png"], ROOT / STUDY) is Layout.MURA


def test_folders_of_few_images_are_studies():
    assert layout_of_sample([*paths("a", 2), *paths("b/c", FOLDER_MAX_IMAGES), "loose.png"], ROOT) is Layout.FOLDER


def test_folders_of_many_images_are_collections():
    many = FOLDER_MAX_IMAGES + 1

    assert layout_of_sample([*paths("Fractured", many), *paths("Normal", many)], ROOT) is Layout.FLAT


def test_loose_images_are_flat():
    assert layout_of_sample(["a.png", "b.png"], ROOT) is Layout.FLAT


def test_nothing_at_all_is_flat():
    assert layout_of_sample(["notes.txt"], ROOT) is Layout.FLAT


@pytest.mark.parametrize(
    ("build", "layout"),
    [
        (lambda root: mura_tree(root, 60), Layout.MURA),
        (lambda root: mura_tree(root / "MURA-v1.1" / "train", 60), Layout.MURA),
        (lambda root: folder_tree(root, 20), Layout.FOLDER),
        (lambda root: flat_tree(root, 30), Layout.FLAT),
        (lambda root: flat_tree(root / "images", 30), Layout.FLAT),
    ],
)
def test_a_survey_tells_the_layout(tmp_path, build, layout):
    build(tmp_path)

    assert detect_layout(tmp_path) is layout


def test_a_survey_sees_past_a_huge_first_folder(tmp_path):
    flat_tree(tmp_path / "0", 500)
    mura_tree(tmp_path / "MURA-v1.1" / "train", 400)

    assert detect_layout(tmp_path) is Layout.MURA


def test_a_survey_stays_bounded_in_a_large_archive(tmp_path):
    for a, b, c in itertools.product(range(12), repeat=3):
        (tmp_path / f"{a}" / f"{b}" / f"{c}").mkdir(parents=True)
    count = (
        "import sys; from pathlib import Path; from producer.layout_detection import detect_layout; opened = [];"
        "sys.addaudithook(lambda event, _: opened.append(event) if event == 'os.scandir' else None);"
        "detect_layout(Path(sys.argv[1])); print(len(opened))"
    )

    opened = subprocess.run([sys.executable, "-c", count, str(tmp_path)], capture_output=True, check=True, text=True)

    assert int(opened.stdout) < 200
