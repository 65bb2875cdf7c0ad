"""Layouts: the study that a path belongs to."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray.archives.archive_file import Placement
from xray.archives.layouts import placement_from_path
from xray.vocabulary import Label, Layout, SkipReason

ROOT = PurePosixPath("/data/archive")
STUDY = "XR_HUMERUS/patient00001/study1_positive"


def placement(relative: str, layout: Layout = Layout.MURA, root: PurePosixPath = ROOT) -> Placement:
    found = placement_from_path(relative, layout, root)
    assert isinstance(found, Placement)
    return found


def skipped(relative: str, layout: Layout = Layout.MURA) -> SkipReason:
    found = placement_from_path(relative, layout, ROOT)
    assert isinstance(found, SkipReason)
    return found


@pytest.mark.parametrize("above", ["", "train/", "MURA-v1.1/valid/"])
def test_a_mura_path_gives_study_body_part_and_label(above):
    assert placement(f"{above}{STUDY}/image1.png") == Placement(f"{above}{STUDY}", "HUMERUS", Label.POSITIVE)


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
def test_any_level_of_a_mura_tree_may_be_the_root(root, relative):
    found = placement(relative, root=PurePosixPath(root))

    assert (found.body_part, found.human_label) == ("HUMERUS", Label.POSITIVE)
    assert found.study.endswith("study1_positive")


def test_a_body_part_below_the_root_wins_over_that_of_the_root():
    assert placement("XR_HAND/patient1/study1_negative/i.png", root=PurePosixPath("/XR_ELBOW")).body_part == "HAND"


def test_a_study_is_negative_or_has_no_label_as_its_folder_says():
    assert placement("XR_HAND/patient1/study1_negative/i.png").human_label is Label.NEGATIVE
    assert placement("XR_HAND/patient1/study2/i.png").human_label is None


def test_a_body_part_that_mura_does_not_have_is_kept():
    assert placement("XR_CHEST/patient1/study1_negative/i.png").body_part == "CHEST"


def test_a_study_without_a_body_part_folder_has_none():
    assert placement("patient1/study1_negative/i.png").body_part is None


def test_upper_and_lower_case_are_equal_in_mura_names():
    assert placement("xr_hand/PATIENT1/Study1_Positive/IMAGE1.PNG") == Placement(
        "xr_hand/PATIENT1/Study1_Positive", "HAND", Label.POSITIVE
    )


@pytest.mark.parametrize("relative", ["loose.png", "XR_HAND/i.png", "XR_HAND/patient1/i.png", f"{STUDY}/more/i.png"])
def test_an_image_outside_a_study_folder_is_outside_the_mura_layout(relative):
    assert skipped(relative) is SkipReason.OUTSIDE_LAYOUT


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".JPE", ".tif", ".Tiff"])
def test_images_are_recognised_by_their_suffix_in_any_case(suffix):
    assert placement(f"image{suffix}", Layout.FLAT) == Placement(f"image{suffix}")


@pytest.mark.parametrize("name", ["labels.csv", "image", "image.png.txt", "Thumbs.db", "image.gif"])
def test_other_files_are_not_images(name):
    assert skipped(name, Layout.FLAT) is SkipReason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    "relative", [".DS_Store", f"{STUDY}/._image1.png", ".trash/i.png", "__MACOSX/i.png", "a/@eaDir/i.jpg"]
)
def test_files_of_the_operating_system_are_hidden(relative):
    assert skipped(relative) is SkipReason.HIDDEN


@pytest.mark.parametrize("layout", [Layout.MURA, Layout.FOLDER, Layout.FLAT])
@pytest.mark.parametrize("relative", ["M\udcfcller/study1/i.png", "M\udcfcller.png"])
def test_a_name_that_is_not_utf8_is_skipped(layout, relative):
    assert skipped(relative, layout) is SkipReason.NAME_NOT_UTF8


def test_in_the_layout_folder_a_folder_is_a_study_and_an_image_in_the_root_is_its_own():
    assert placement("2021/case 7/a.jpg", Layout.FOLDER) == Placement("2021/case 7")
    assert placement("loose.jpg", Layout.FOLDER) == Placement("loose.jpg")


def test_in_the_layout_flat_each_image_is_a_study():
    assert placement("2021/case 7/a.jpg", Layout.FLAT) == Placement("2021/case 7/a.jpg")


@pytest.mark.parametrize("layout", [Layout.AUTO, Layout.DICOM, Layout.MANIFEST])
def test_layouts_that_need_more_than_paths_are_an_error(layout):
    with pytest.raises(ValueError, match="does not depend on paths only"):
        placement_from_path("a.png", layout, ROOT)


def test_a_dicom_file_may_be_in_any_layout():
    assert placement("XR_HAND/patient00001/study1_positive/image1.DCM", Layout.MURA).body_part == "HAND"


@settings(deadline=None)
@given(st.text(), st.sampled_from([Layout.MURA, Layout.FOLDER, Layout.FLAT]))
def test_any_path_has_a_placement_or_a_skip_reason_and_keys_are_utf8(relative, layout):
    found = placement_from_path(relative, layout, ROOT)

    assert isinstance(found, SkipReason) or found.study.encode()


def test_a_path_that_postgresql_cannot_index_is_skipped():
    assert placement_from_path("x" * 1000 + ".png", Layout.FLAT, PurePosixPath("/archive")) is SkipReason.PATH_TOO_LONG
