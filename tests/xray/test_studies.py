"""Layouts: which study a path belongs to."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray.archives.layouts import FOLDER_MAX_IMAGES, Placement, Skip, detect_layout, place
from xray.vocabulary import Label, Layout, SkipReason

ROOT = PurePosixPath("/data/archive")
STUDY = "XR_HUMERUS/patient00001/study1_positive"


def placed(relative: str, layout: Layout = Layout.MURA, root: PurePosixPath = ROOT) -> Placement:
    found = place(relative, layout, root)
    assert isinstance(found, Placement)
    return found


def skipped(relative: str, layout: Layout = Layout.MURA) -> SkipReason:
    found = place(relative, layout, ROOT)
    assert isinstance(found, Skip)
    return found.reason


@pytest.mark.parametrize("above", ["", "train/", "MURA-v1.1/valid/"])
def test_a_mura_path_tells_study_body_part_and_label(above):
    assert placed(f"{above}{STUDY}/image1.png") == Placement(f"{above}{STUDY}", "HUMERUS", Label.POSITIVE)


@pytest.mark.parametrize(
    ("root", "relative"),
    [
        ("/data/MURA-v1.1", f"train/{STUDY}/image1.png"),
        ("/data/MURA-v1.1/train", f"{STUDY}/image1.png"),
        ("/data/MURA-v1.1/train/XR_HUMERUS", "patient00001/study1_positive/image1.png"),
        ("/data/MURA-v1.1/train/XR_HUMERUS/patient00001", "study1_positive/image1.png"),
        ("/data/MURA-v1.1/train/XR_HUMERUS/patient00001/study1_positive", "image1.png"),
    ],
)
def test_any_level_of_mura_may_be_the_root(root, relative):
    found = placed(relative, root=PurePosixPath(root))

    assert (found.body_part, found.human_label) == ("HUMERUS", Label.POSITIVE)
    assert found.study.endswith("study1_positive")


def test_a_body_part_below_the_root_goes_before_the_roots_own():
    assert placed("XR_HAND/patient1/study1_negative/i.png", root=PurePosixPath("/XR_ELBOW")).body_part == "HAND"


def test_the_two_labels_and_none():
    assert placed("XR_HAND/patient1/study1_negative/i.png").human_label is Label.NEGATIVE
    assert placed("XR_HAND/patient1/study2/i.png").human_label is None


def test_a_body_part_that_mura_has_not_is_kept():
    assert placed("XR_CHEST/patient1/study1_negative/i.png").body_part == "CHEST"


def test_a_study_without_a_body_part_folder_has_none():
    assert placed("patient1/study1_negative/i.png").body_part is None


def test_names_are_told_in_any_case():
    assert placed("xr_hand/PATIENT1/Study1_Positive/IMAGE1.PNG") == Placement(
        "xr_hand/PATIENT1/Study1_Positive", "HAND", Label.POSITIVE
    )


@pytest.mark.parametrize("relative", ["loose.png", "XR_HAND/i.png", "XR_HAND/patient1/i.png", f"{STUDY}/more/i.png"])
def test_an_image_outside_a_study_folder_is_outside_the_mura_layout(relative):
    assert skipped(relative) is SkipReason.OUTSIDE_LAYOUT


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".JPE", ".tif", ".Tiff"])
def test_images_are_told_by_their_suffix_in_any_case(suffix):
    assert placed(f"film{suffix}", Layout.FLAT) == Placement(f"film{suffix}")


@pytest.mark.parametrize("name", ["labels.csv", "film", "film.png.txt", "Thumbs.db", "film.gif"])
def test_other_files_are_no_images(name):
    assert skipped(name, Layout.FLAT) is SkipReason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    "relative", [".DS_Store", f"{STUDY}/._image1.png", ".trash/i.png", "__MACOSX/i.png", "a/@eaDir/i.jpg"]
)
def test_what_the_system_left_is_hidden(relative):
    assert skipped(relative) is SkipReason.HIDDEN


@pytest.mark.parametrize("layout", [Layout.MURA, Layout.FOLDER, Layout.FLAT])
@pytest.mark.parametrize("relative", ["M\udcfcller/study1/i.png", "M\udcfcller.png"])
def test_a_name_that_no_database_could_hold_is_skipped_by_reason(layout, relative):
    assert skipped(relative, layout) is SkipReason.NAME_NOT_UTF8


def test_a_folder_is_a_study_and_a_loose_image_is_its_own():
    assert placed("2021/case 7/a.jpg", Layout.FOLDER) == Placement("2021/case 7")
    assert placed("loose.jpg", Layout.FOLDER) == Placement("loose.jpg")


def test_in_a_flat_archive_each_image_is_a_study():
    assert placed("2021/case 7/a.jpg", Layout.FLAT) == Placement("2021/case 7/a.jpg")


@pytest.mark.parametrize("layout", [Layout.AUTO, Layout.DICOM, Layout.MANIFEST])
def test_a_layout_that_does_not_go_by_paths_places_none(layout):
    with pytest.raises(ValueError, match="does not go by paths"):
        place("a.png", layout, ROOT)


def test_dicom_files_make_the_layout_unless_other_images_are_far_more_or_lie_as_in_mura():
    names = ["a/1", "a/2", "a/3.png"]
    assert detect_layout(names, ROOT, dicom=2) is Layout.DICOM
    assert detect_layout(names, ROOT, dicom=0) is Layout.FOLDER
    icons = [f"viewer/{number}.png" for number in range(15)]
    assert detect_layout([*names, *icons], ROOT, dicom=2) is Layout.DICOM
    films = [f"{number}/film.png" for number in range(25)]
    assert detect_layout([*names, *films], ROOT, dicom=2) is Layout.FOLDER
    mura = ["XR_HAND/patient00001/study1_positive/image1.dcm"]
    assert detect_layout(mura, ROOT, dicom=1) is Layout.MURA


def test_a_dicom_file_may_lie_in_any_layout():
    assert placed("XR_HAND/patient00001/study1_positive/image1.DCM", Layout.MURA).body_part == "HAND"


@settings(deadline=None)
@given(st.text(), st.sampled_from([Layout.MURA, Layout.FOLDER, Layout.FLAT]))
def test_any_path_is_placed_or_skipped_and_keys_are_utf8(relative, layout):
    found = place(relative, layout, ROOT)

    assert isinstance(found, Skip) or found.study.encode()


def paths(folder: str, images: int) -> list[str]:
    return [f"{folder}/{number}.png" for number in range(images)]


def test_study_folders_make_it_mura_in_spite_of_some_others():
    sample = [*paths(STUDY, 3), *paths("XR_HAND/patient1/study1", 2), "loose.png", f"{STUDY}/._0.png", "index.csv"]

    assert detect_layout(sample, ROOT) is Layout.MURA


def test_a_single_mura_study_is_mura():
    assert detect_layout(["image1.png"], ROOT / STUDY) is Layout.MURA


def test_folders_of_few_images_are_studies():
    assert detect_layout([*paths("a", 2), *paths("b/c", FOLDER_MAX_IMAGES), "loose.png"], ROOT) is Layout.FOLDER


def test_folders_of_many_images_are_collections():
    many = FOLDER_MAX_IMAGES + 1

    assert detect_layout([*paths("Fractured", many), *paths("Normal", many)], ROOT) is Layout.FLAT


def test_loose_images_are_flat():
    assert detect_layout(["a.png", "b.png"], ROOT) is Layout.FLAT


def test_nothing_at_all_is_flat():
    assert detect_layout(["notes.txt"], ROOT) is Layout.FLAT


def test_a_path_that_postgresql_could_not_index_is_passed_over():
    assert place("x" * 1000 + ".png", Layout.FLAT, PurePosixPath("/archive")) == Skip(SkipReason.PATH_TOO_LONG)
