"""Layouts: which study a path belongs to."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray.archives.archive_file import Placement
from xray.archives.layouts import placement_from_path
from xray.vocabulary import Label, Layout, SkipReason

ROOT = PurePosixPath("/data/archive")
STUDY = "XR_HUMERUS/patient00001/study1_positive"


def placed(relative: str, layout: Layout = Layout.MURA, root: PurePosixPath = ROOT) -> Placement:
    found = placement_from_path(relative, layout, root)
    assert isinstance(found, Placement)
    return found


def skipped(relative: str, layout: Layout = Layout.MURA) -> SkipReason:
    found = placement_from_path(relative, layout, ROOT)
    assert isinstance(found, SkipReason)
    return found


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
    assert placed(f"image{suffix}", Layout.FLAT) == Placement(f"image{suffix}")


@pytest.mark.parametrize("name", ["labels.csv", "image", "image.png.txt", "Thumbs.db", "image.gif"])
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
    with pytest.raises(ValueError, match="does not depend on paths only"):
        placement_from_path("a.png", layout, ROOT)


def test_a_dicom_file_may_lie_in_any_layout():
    assert placed("XR_HAND/patient00001/study1_positive/image1.DCM", Layout.MURA).body_part == "HAND"


@settings(deadline=None)
@given(st.text(), st.sampled_from([Layout.MURA, Layout.FOLDER, Layout.FLAT]))
def test_any_path_is_placed_or_skipped_and_keys_are_utf8(relative, layout):
    found = placement_from_path(relative, layout, ROOT)

    assert isinstance(found, SkipReason) or found.study.encode()


def test_a_path_that_postgresql_could_not_index_is_passed_over():
    assert placement_from_path("x" * 1000 + ".png", Layout.FLAT, PurePosixPath("/archive")) is SkipReason.PATH_TOO_LONG
