"""Groups given from outside: they join what the data keep apart, and never part what they keep together."""

from dataclasses import replace
from pathlib import Path

import pytest

from training.data.dataset import Dataset, Example, Role
from training.data.fracatlas import FRACATLAS
from training.data.read_dataset import read_dataset, read_groups
from training.data.split import Split, make_split, note_tested, read_split, regroup
from training.disk import table_text
from xray.errors import UsageError

HOSTILE = 'a\rb, "c"\nd'


def films(patients: int = 30) -> Dataset:
    """List two studies of two films for each patient, a study of each label."""
    return Dataset(
        Path("/nowhere"),
        FRACATLAS,
        "fracture",
        tuple(
            Example(f"{patient}/{study}/{film}.png", f"{patient}/{study}", f"p{patient}", bool(study), "HAND")
            for patient in range(patients)
            for study in range(2)
            for film in range(2)
        ),
    )


def test_each_image_a_group_of_its_own_leaves_patients_and_studies_whole_and_it_is_said() -> None:
    data = films()
    alone = regroup(data, {image: image for image in data.images.tolist()})
    assert "of 120, 30 are left" in alone.notes[-1]
    split = make_split(alone, validation=0.1, test=0.2, seed=0)
    for own in (data.groups, data.studies):
        parts = {(key, split.roles[group]) for key, group in zip(own.tolist(), alone.groups.tolist(), strict=True)}
        assert len(parts) == len(set(own.tolist()))


def test_a_study_of_two_patients_is_joined_too() -> None:
    examples = tuple(
        replace(example, study="one") if "/0/0" in example.image else example for example in films(4).examples
    )
    data = replace(films(4), examples=examples)
    assert len(set(regroup(data, {image: image for image in data.images.tolist()}).groups.tolist())) == 1


def test_groups_that_only_join_are_taken_as_they_are_without_a_note() -> None:
    data = films()
    given = {example.image: str(int(example.group[1:]) // 3) for example in data.examples}
    joined = regroup(data, given)
    assert joined.groups.tolist() == [given[image] for image in data.images.tolist()]
    assert joined.notes == data.notes
    with pytest.raises(UsageError, match=r"no group is given for the image '0/0/0\.png'"):
        regroup(data, {})


def test_a_group_that_reaches_into_the_publishers_test_part_is_tested_with_and_it_is_said() -> None:
    data = films()
    patients = {f"p{number}" for number in range(5)}
    roles = tuple(replace(e, role=Role.TEST if e.group in patients else Role.TRAIN) for e in data.examples)
    parted = replace(data, examples=roles)
    # p7 is listed after p0, and was put among the films to learn from.
    given = {example.image: "p0" if example.group == "p7" else example.group for example in data.examples}
    joined = note_tested(regroup(parted, given))
    split = make_split(joined, validation=0.1, test=0.2, seed=0)
    assert {group for group, role in split.roles.items() if role is Role.TEST} == patients
    assert joined.notes[-1].startswith("4 images that the publisher has not put into the test part are tested with")
    assert note_tested(parted) == parted


def test_the_note_is_of_the_body_parts_that_are_taken(mura: Path, tmp_path: Path) -> None:
    for number, part in ((0, "valid"), (1, "train"), (2, "train")):
        (mura / part).mkdir(exist_ok=True)
        folder = mura / part / "XR_HUMERUS" / f"patient{number:05d}"
        folder.parent.mkdir(exist_ok=True)
        (mura / "XR_HUMERUS" / folder.name).rename(folder)
    images = read_dataset(mura).images.tolist()
    table = tmp_path / "groups.csv"
    table.write_text(table_text(("image", "group"), [(image, "one") for image in images]))
    assert read_dataset(mura, groups=table).notes == (
        "46 images that the publisher has not put into the test part are tested with, not learnt from, as their groups "
        "reach into it",
    )


def test_names_with_line_ends_commas_and_quotes_come_back_from_tables(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(table_text(("image", "group"), [(HOSTILE, "g\r"), ("plain", "g")]).encode())
    assert read_groups(table) == {HOSTILE: "g\r", "plain": "g"}
    assert table.read_bytes().endswith(b"\nplain,g\n")
    split = Split({HOSTILE: Role.TEST, "plain": Role.TRAIN})
    table.write_bytes(split.to_csv().encode())
    assert read_split(table) == split
