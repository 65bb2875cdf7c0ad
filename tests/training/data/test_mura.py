"""MURA's layout: the publisher's test part, the terms that apply, and skipped files."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.mura_shaped import write_mura_shaped
from tests.training.conftest import GROUPS
from training.data.dataset import OWN_DATA, Role
from training.data.mura import MURA
from training.data.read_dataset import read_dataset
from xray.errors import UsageError


def split_folder(mura: Path) -> Path:
    """Move the last four patients into valid/ and the others into train/; return MURA-v1.1."""
    patients = sorted((mura / "XR_HUMERUS").iterdir())
    for place, patient in enumerate(patients):
        part = "valid" if place >= len(patients) - 4 else "train"
        (mura / part / "XR_HUMERUS").mkdir(parents=True, exist_ok=True)
        patient.rename(mura / part / "XR_HUMERUS" / patient.name)
    (mura / "XR_HUMERUS").rmdir()
    return mura


def test_the_publishers_test_part_is_found_from_the_parent_folder_too(mura: Path) -> None:
    root = split_folder(mura)
    for folder in (root, root.parent):
        roles = Counter(example.role for example in read_dataset(folder).examples)
        assert roles == {Role.TRAIN: 40, Role.TEST: 8}
    shutil.copytree(root / "valid/XR_HUMERUS/patient00023", root / "train/XR_HUMERUS/patient00023")
    with pytest.raises(UsageError, match="patient00023 is in both train/ and valid/"):
        read_dataset(root.parent)


def test_muras_terms_apply_to_its_tables_and_its_folder_but_not_to_own_data_in_its_layout(
    mura: Path, tmp_path: Path
) -> None:
    for folder in (mura, mura.parent, mura / "XR_HUMERUS"):
        assert read_dataset(folder).terms == MURA
    own = mura.rename(tmp_path / "own")
    dataset = read_dataset(own)
    assert (dataset.terms, dataset.finding) == (OWN_DATA, "abnormality")
    assert "treated as your own data in MURA's layout" in dataset.notes[0]
    assert read_dataset(own, finding="fracture").finding == "fracture"
    table = own / "train_image_paths.csv"
    table.write_text("own/XR_HUMERUS/patient00000/study1_negative/image1.png\n")
    assert read_dataset(own).terms == MURA


def test_skipped_image_files_are_counted_by_reason(mura: Path) -> None:
    study = mura / "XR_HUMERUS/patient00000/study1_negative"
    image = (study / "image1.png").read_bytes()
    for name in (".hidden.png", "readme.txt"):
        (study / name).write_bytes(image)
    assert read_dataset(mura).notes == ()
    Path(os.fsdecode(os.fsencode(study) + b"/\xff.png")).write_bytes(image)
    (mura / "loose.png").write_bytes(image)
    (mura / "XR_HAND").symlink_to(mura / "XR_HUMERUS")
    (note,) = read_dataset(mura).notes
    assert note == "skipped 1 image that does not fit the layout, 1 name that is not UTF-8, 1 link to a folder"


@pytest.mark.parametrize("all_parts", ["all", "ALL", "All"])
def test_all_selects_every_body_part(mura: Path, all_parts: str) -> None:
    assert len(read_dataset(mura, body_parts=[all_parts])) == 48


def test_fracatlas_in_muras_layout_keeps_labels_and_groups_and_no_group_is_divided(
    fracatlas: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shaped" / "MURA-v1.1"
    hands = read_dataset(fracatlas, body_parts=["HAND"])
    # The damaged image is of a hand.
    assert write_mura_shaped(fracatlas, folder) == 1
    dataset = read_dataset(folder)
    assert (len(dataset), dataset.labels.sum()) == (len(hands) - 1, hands.labels.sum())
    assert set(dataset.body_parts.tolist()) == {"HUMERUS"}
    assert len(set(dataset.groups.tolist())) == GROUPS
    assert {example.role for example in dataset.examples} == {Role.TRAIN, Role.TEST}
    assert (folder / "README.txt").read_text().startswith("This is not MURA.")
