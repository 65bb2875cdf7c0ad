"""Splits: groups stay together, classes are balanced, the publisher's test part stands."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.dataset import Dataset, Example, Role
from training.sources.fracatlas import FRACATLAS
from training.split import assign_folds, make_split, read_split
from xray.errors import UsageError


def dataset(groups: int = 40, size: int = 5, positive: float = 0.3) -> Dataset:
    labels = np.random.default_rng(0).random(groups * size) < positive
    examples = tuple(
        Example(f"{i}.png", f"study{i}", f"group{i // size}", bool(label), "HAND") for i, label in enumerate(labels)
    )
    return Dataset(Path("/nowhere"), FRACATLAS, "fracture", examples)


def test_a_split_is_near_its_shares_parts_no_group_and_is_the_same_for_the_same_seed() -> None:
    data = dataset()
    split = make_split(data, validation=0.1, test=0.2, seed=3)
    assert split == make_split(data, validation=0.1, test=0.2, seed=3)
    assert split != make_split(data, validation=0.1, test=0.2, seed=4)
    shares = {role: split.part(data, role) for role in Role}
    assert {role: len(part) / len(data) for role, part in shares.items()} == pytest.approx(
        {Role.TRAIN: 0.7, Role.VALIDATION: 0.1, Role.TEST: 0.2}, abs=0.03
    )
    groups = [set(part.groups.tolist()) for part in shares.values()]
    assert not any(a & b for a in groups for b in groups if a is not b)
    assert all(abs(part.labels.mean() - data.labels.mean()) < 0.08 for part in shares.values())


def test_the_publishers_test_part_stands() -> None:
    data = dataset()
    roles = {"group1": Role.TEST, "group2": Role.TEST, "group3": Role.TEST}
    parted = replace(data, examples=tuple(replace(e, role=roles.get(e.group, Role.TRAIN)) for e in data.examples))
    split = make_split(parted, validation=0.1, test=0.2, seed=0)
    assert {group for group, role in split.roles.items() if role is Role.TEST} == set(roles)


def test_a_split_comes_back_from_its_file(tmp_path: Path) -> None:
    split = make_split(dataset(), validation=0.1, test=0.2, seed=3)
    (tmp_path / "split.csv").write_text(split.to_csv())
    assert read_split(tmp_path / "split.csv") == split


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("group,role\na,train\na,test\n", "line 3: the group 'a' is in two parts, train and test"),
        ("group,role\na,exam\n", "line 2: the role 'exam' is none of train, validation, test"),
        ("group\na\n", "has no column role"),
    ],
)
def test_a_split_file_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_split(tmp_path / "split.csv")


def test_a_split_of_other_data_and_one_with_an_empty_or_one_sided_part_are_refused(tmp_path: Path) -> None:
    data = dataset(groups=4)
    (tmp_path / "split.csv").write_text("group,role\ngroup0,train\ngroup1,validation\ngroup2,train\n")
    with pytest.raises(UsageError, match="says nothing of the group 'group3'"):
        read_split(tmp_path / "split.csv").part(data, Role.TRAIN)
    (tmp_path / "split.csv").write_text(
        "".join(f"{line}\n" for line in ("group,role", *(f"group{i},train" for i in range(4))))
    )
    with pytest.raises(UsageError, match="the test part has no images"):
        read_split(tmp_path / "split.csv").part(data, Role.TEST)
    negative = replace(data, examples=tuple(replace(e, label=False) for e in data.examples))
    with pytest.raises(UsageError, match="one class only: all 20 images are negative"):
        make_split(negative, validation=0.25, test=0.25, seed=0)


def test_no_group_lies_in_two_folds_and_every_image_in_one() -> None:
    data = dataset()
    for seed in range(5):
        folds = assign_folds(data.labels, data.groups, 5, seed)
        assert set(folds) == set(range(5))
        assert all(len(set(folds[data.groups == group])) == 1 for group in np.unique(data.groups))


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="2 groups cannot be cut into 5 folds"):
        assign_folds(np.arange(10) % 2 == 0, np.repeat(["a", "b"], 5), 5, 0)


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
def test_groups_that_leave_a_fold_with_one_class_are_refused() -> None:
    with pytest.raises(UsageError, match="with one class only"):
        assign_folds(np.repeat([True, False, False, False], 5), np.repeat(["a", "b", "c", "d"], 5), 4, 0)
