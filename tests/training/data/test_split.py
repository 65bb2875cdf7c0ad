"""Splits and folds keep groups together and balance classes; the publisher's test part is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.data.dataset import Dataset, Example, Role
from training.data.fracatlas import FRACATLAS
from training.data.split import assign_folds, make_split, read_split
from xray.errors import UsageError


def dataset(groups: int = 40, size: int = 5, positive: float = 0.3) -> Dataset:
    labels = np.random.default_rng(0).random(groups * size) < positive
    examples = tuple(
        Example(f"{i}.png", f"study{i}", f"group{i // size}", bool(label), "HAND") for i, label in enumerate(labels)
    )
    return Dataset(Path("/nowhere"), FRACATLAS, "fracture", examples)


def test_a_split_has_about_its_shares_divides_no_group_and_is_the_same_for_the_same_seed() -> None:
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


def test_the_publishers_test_part_is_kept() -> None:
    data = dataset()
    roles = {"group1": Role.TEST, "group2": Role.TEST, "group3": Role.TEST}
    with_test_part = replace(
        data, examples=tuple(replace(e, role=roles.get(e.group, Role.TRAIN)) for e in data.examples)
    )
    split = make_split(with_test_part, validation=0.1, test=0.2, seed=0)
    assert {group for group, role in split.roles.items() if role is Role.TEST} == set(roles)


def test_a_split_is_read_back_from_its_file(tmp_path: Path) -> None:
    split = make_split(dataset(), validation=0.1, test=0.2, seed=3)
    (tmp_path / "split.csv").write_text(split.to_csv())
    assert read_split(tmp_path / "split.csv") == split


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("group,role\na,train\na,test\n", "line 3: the group 'a' is in two parts, train and test"),
        ("group,role\na,holdout\n", "line 2: the role must be one of train, validation, test, not 'holdout'"),
        ("group\na\n", "has no column role"),
    ],
)
def test_an_invalid_split_file_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_split(tmp_path / "split.csv")


def test_a_split_of_other_data_or_with_an_empty_or_single_class_part_is_refused(tmp_path: Path) -> None:
    data = dataset(groups=4)
    (tmp_path / "split.csv").write_text("group,role\ngroup0,train\ngroup1,validation\ngroup2,train\n")
    with pytest.raises(UsageError, match="the split has no group 'group3'"):
        read_split(tmp_path / "split.csv").part(data, Role.TRAIN)
    (tmp_path / "split.csv").write_text(
        "".join(f"{line}\n" for line in ("group,role", *(f"group{i},train" for i in range(4))))
    )
    with pytest.raises(UsageError, match="the test part has no images"):
        read_split(tmp_path / "split.csv").part(data, Role.TEST)
    negative = replace(data, examples=tuple(replace(e, label=False) for e in data.examples))
    with pytest.raises(UsageError, match=r"one class only: negative \(20 images\)"):
        make_split(negative, validation=0.25, test=0.25, seed=0)


def test_every_image_is_in_one_fold_and_no_group_in_two() -> None:
    data = dataset()
    for seed in range(5):
        folds = assign_folds(data.labels, data.groups, 5, seed)
        assert set(folds) == set(range(5))
        assert all(len(set(folds[data.groups == group])) == 1 for group in np.unique(data.groups))


@pytest.mark.parametrize(
    ("labels", "groups", "counted"),
    [
        ([True, False] * 5, ["a"] * 5 + ["b"] * 5, "2 groups cannot be divided into 5 folds"),
        ([True] * 5 + [False] * 15, [*"aaaaabbbbbcccccddddd"], "with positive images: 1, with negative images: 3"),
        ([True, True, False, False], [*"abcd"], "4 groups cannot be divided into 5 folds"),
    ],
)
def test_groups_that_leave_a_fold_with_one_class_are_refused_with_advice(
    labels: list[bool], groups: list[str], counted: str
) -> None:
    with pytest.raises(UsageError, match="use a recipe without folds, or collect more groups") as refused:
        assign_folds(np.array(labels), np.array(groups), 5, 0)
    assert counted in str(refused.value)


def small(*groups: str) -> Dataset:
    """List a group for each string, with a positive image for each ``p`` and a negative one for each ``n``."""
    return Dataset(
        Path("/nowhere"),
        FRACATLAS,
        "fracture",
        tuple(
            Example(f"{place}/{number}.png", f"{place}/{number}", f"group{place}", letter == "p")
            for place, letters in enumerate(groups)
            for number, letter in enumerate(letters)
        ),
    )


def test_twenty_patients_with_two_images_of_one_label_can_be_split_with_any_seed() -> None:
    data = small(*["pp", "nn"] * 10)
    test_groups = {"group0", "group1", "group2", "group4"}
    with_test_part = replace(
        data,
        examples=tuple(replace(e, role=Role.TEST if e.group in test_groups else Role.TRAIN) for e in data.examples),
    )
    for seed in range(50):
        for each in (data, with_test_part):
            split = make_split(each, validation=0.1, test=0.15, seed=seed)
            assert all(split.part(each, role).labels.any() for role in Role)


def test_every_data_set_that_can_be_split_is_split() -> None:
    rng = np.random.default_rng(0)
    split = 0
    for _ in range(300):
        data = small(*rng.choice(["p", "n", "pn", "nnn", "ppnn", "pppppp"], rng.integers(2, 7)))
        with_label = [len(set(data.groups[data.labels == label].tolist())) for label in (True, False)]
        if min(with_label) < 3:
            with pytest.raises(UsageError, match=r"one class only|Collect more groups, or give the parts with --split"):
                make_split(data, validation=0.1, test=0.15, seed=0)
            continue
        made = make_split(data, validation=0.1, test=0.15, seed=0)
        for role in Role:
            made.part(data, role)
        split += 1
    assert split > 50
