"""A groups file can merge groups of the data set, and never separates a patient or a study."""

from dataclasses import replace
from pathlib import Path

import pytest

from training.data.dataset import Dataset, Example, Role
from training.data.fracatlas import FRACATLAS
from training.data.read_dataset import read_dataset, read_groups
from training.data.split import Split, make_split, note_moved_to_test, read_split, regroup
from training.disk import table_text
from xray.errors import UsageError

HOSTILE = 'a\rb, "c"\nd'


def labelled_images(patients: int = 30) -> Dataset:
    """List two studies of two images for each patient, one study for each label."""
    return Dataset(
        Path("/nowhere"),
        FRACATLAS,
        "fracture",
        tuple(
            Example(f"{patient}/{study}/{image}.png", f"{patient}/{study}", f"p{patient}", bool(study), "HAND")
            for patient in range(patients)
            for study in range(2)
            for image in range(2)
        ),
    )


def test_one_group_per_image_keeps_patients_and_studies_together_and_a_note_says_so() -> None:
    data = labelled_images()
    alone = regroup(data, {image: image for image in data.images.tolist()})
    assert "120 groups became 30" in alone.notes[-1]
    split = make_split(alone, validation=0.1, test=0.2, seed=0)
    for own in (data.groups, data.studies):
        parts = {(key, split.roles[group]) for key, group in zip(own.tolist(), alone.groups.tolist(), strict=True)}
        assert len(parts) == len(set(own.tolist()))


def test_the_patients_of_one_study_are_merged_too() -> None:
    examples = tuple(
        replace(example, study="one") if "/0/0" in example.image else example for example in labelled_images(4).examples
    )
    data = replace(labelled_images(4), examples=examples)
    assert len(set(regroup(data, {image: image for image in data.images.tolist()}).groups.tolist())) == 1


def test_groups_that_only_merge_are_used_unchanged_and_without_a_note() -> None:
    data = labelled_images()
    new_groups = {example.image: str(int(example.group[1:]) // 3) for example in data.examples}
    joined = regroup(data, new_groups)
    assert joined.groups.tolist() == [new_groups[image] for image in data.images.tolist()]
    assert joined.notes == data.notes
    with pytest.raises(UsageError, match=r"the groups file has no group for the image '0/0/0\.png'"):
        regroup(data, {})


def test_a_group_with_an_image_in_the_publishers_test_part_is_used_for_testing_and_a_note_says_so() -> None:
    data = labelled_images()
    patients = {f"p{number}" for number in range(5)}
    roles = tuple(replace(e, role=Role.TEST if e.group in patients else Role.TRAIN) for e in data.examples)
    with_test_part = replace(data, examples=roles)
    # p7 is listed after p0, and was a training image.
    new_groups = {example.image: "p0" if example.group == "p7" else example.group for example in data.examples}
    joined = note_moved_to_test(regroup(with_test_part, new_groups))
    split = make_split(joined, validation=0.1, test=0.2, seed=0)
    assert {group for group, role in split.roles.items() if role is Role.TEST} == patients
    assert joined.notes[-1].startswith("used for testing, not training: 4 images from outside the publisher's")
    assert note_moved_to_test(with_test_part) == with_test_part


def test_the_note_counts_the_selected_body_parts_only(mura: Path, tmp_path: Path) -> None:
    for number, part in ((0, "valid"), (1, "train"), (2, "train")):
        (mura / part).mkdir(exist_ok=True)
        folder = mura / part / "XR_HUMERUS" / f"patient{number:05d}"
        folder.parent.mkdir(exist_ok=True)
        (mura / "XR_HUMERUS" / folder.name).rename(folder)
    images = read_dataset(mura).images.tolist()
    table = tmp_path / "groups.csv"
    table.write_text(table_text(("image", "group"), [(image, "one") for image in images]))
    assert read_dataset(mura, groups=table).notes == (
        "used for testing, not training: 46 images from outside the publisher's test part, so that no group is divided",
    )


def test_names_with_line_ends_commas_and_quotes_are_read_back_from_tables(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(table_text(("image", "group"), [(HOSTILE, "g\r"), ("plain", "g")]).encode())
    assert read_groups(table) == {HOSTILE: "g\r", "plain": "g"}
    assert table.read_bytes().endswith(b"\nplain,g\n")
    split = Split({HOSTILE: Role.TEST, "plain": Role.TRAIN})
    table.write_bytes(split.to_csv().encode())
    assert read_split(table) == split
