"""Whether a model was trained on the images it is evaluated on, and which part of the data is selected."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import CARD
from training.data.dataset import OWN_DATA, Dataset, Example, Role
from training.data.fracatlas import FRACATLAS
from training.data.leakage import (
    TRAINING_IMAGES_FILE,
    LeakageVerdict,
    check_leakage,
    image_digests,
    select_part,
    training_images_table,
)
from training.data.split import SPLIT_FILE, Split
from xray.errors import UsageError
from xray.network.card import TrainingData
from xray.network.package import ModelPackage

GROUPS = {"a": Role.TRAIN, "b": Role.VALIDATION, "c": Role.TEST}


def data(groups: str, terms: TrainingData = OWN_DATA, roles: dict[str, Role] | None = None) -> Dataset:
    examples = [
        Example(f"{group}{i}.png", f"{group}{i}", group, bool(i), "HAND", (roles or {}).get(group))
        for group in groups
        for i in range(2)
    ]
    return Dataset(Path("data"), terms, "fracture", tuple(examples))


def package(folder: Path, roles: dict[str, Role] | None, terms: TrainingData = OWN_DATA) -> ModelPackage:
    files = {}
    if roles is not None:
        (folder / SPLIT_FILE).write_text(Split(roles).to_csv())
        files[SPLIT_FILE] = "its digest"
    return ModelPackage(folder, replace(CARD, training_data=(terms,), files=files), "digest")


def test_the_test_part_of_the_models_own_split_is_selected_and_is_held_out(tmp_path: Path) -> None:
    model = package(tmp_path, GROUPS)
    part, name = select_part(model, data("abc"), None)
    assert (set(part.groups.tolist()), name) == ({"c"}, "test")
    assert check_leakage(model, part).verdict is LeakageVerdict.HELD_OUT


def test_without_a_test_part_the_validation_part_is_selected_and_was_tuned_on(tmp_path: Path) -> None:
    model = package(tmp_path, GROUPS)
    part, name = select_part(model, data("ab"), None)
    assert (set(part.groups.tolist()), name) == ({"b"}, "validation")
    assert check_leakage(model, part).verdict is LeakageVerdict.TUNED_ON


def test_training_groups_are_selected_only_on_request_or_alone_and_are_reported(
    tmp_path: Path,
) -> None:
    model = package(tmp_path, GROUPS)
    for part, _ in (
        select_part(model, data("a"), None),
        select_part(model, data("abc"), "train"),
        select_part(model, data("abc"), "all"),
    ):
        leakage = check_leakage(model, part)
        assert leakage.verdict is LeakageVerdict.TRAINED_ON
        assert f"2 of these {len(part)} images" in leakage.text


def test_new_groups_belong_to_the_test_part(tmp_path: Path) -> None:
    model = package(tmp_path, GROUPS)
    part, _ = select_part(model, data("acx"), None)
    assert set(part.groups.tolist()) == {"c", "x"}
    assert check_leakage(model, part).verdict is LeakageVerdict.HELD_OUT


def test_data_that_are_not_in_the_split_are_selected_whole_with_unknown_leakage(tmp_path: Path) -> None:
    model = package(tmp_path, GROUPS)
    part, name = select_part(model, data("xy"), None)
    assert (len(part), name) == (4, "all")
    assert check_leakage(model, part).verdict is LeakageVerdict.UNKNOWN


def test_a_package_without_a_split_counts_as_trained_on_all_of_the_data_set_on_its_card(tmp_path: Path) -> None:
    model = package(tmp_path, None, FRACATLAS)
    leakage = check_leakage(model, data("xy", FRACATLAS))
    assert (leakage.verdict, "trained on FracAtlas" in leakage.text) == (LeakageVerdict.TRAINED_ON, True)
    assert check_leakage(model, data("xy")).verdict is LeakageVerdict.UNKNOWN


def test_other_groups_of_the_training_data_set_do_not_count_as_held_out(tmp_path: Path) -> None:
    assert (
        check_leakage(package(tmp_path, GROUPS, FRACATLAS), data("cx", FRACATLAS)).verdict is LeakageVerdict.TRAINED_ON
    )


def test_the_publishers_parts_are_used_on_request(tmp_path: Path) -> None:
    model = package(tmp_path, None)
    published = data("xy", roles={"x": Role.TRAIN, "y": Role.TEST})
    assert len(select_part(model, published, None)[0]) == 4
    assert np.unique(select_part(model, published, "test")[0].groups).tolist() == ["y"]


def test_a_missing_part_is_refused_with_a_list_of_the_parts_in_the_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no test part; they have: train \(2 images\)"):
        select_part(package(tmp_path, GROUPS), data("a"), "test")
    with pytest.raises(UsageError, match="leave out --part"):
        select_part(package(tmp_path, None), data("a"), "test")


def write_images(folder: Path, dataset: Dataset) -> Dataset:
    """Write a file for each example, and return the data set of them."""
    folder.mkdir()
    for example in dataset.examples:
        (folder / example.image).write_text(example.image)
    return replace(dataset, root=folder)


def write_package_tables(
    folder: Path, dataset: Dataset, roles: dict[str, Role], initial: ModelPackage | None = None
) -> ModelPackage:
    """Write a package's tables of groups and training images."""
    folder.mkdir()
    model = package(folder, roles)
    own = [roles[group] for group in dataset.groups.tolist()]
    (folder / TRAINING_IMAGES_FILE).write_bytes(
        training_images_table(zip(image_digests(dataset), own, strict=True), initial)
    )
    return replace(model, card=replace(model.card, files={SPLIT_FILE: "", TRAINING_IMAGES_FILE: ""}))


def test_an_image_is_recognised_by_its_content_under_another_name_and_group(tmp_path: Path) -> None:
    dataset = write_images(tmp_path / "data", data("abc"))
    model = write_package_tables(tmp_path / "model", dataset, GROUPS)
    renamed = []
    for example, group in zip(dataset.examples, "ccxxyy", strict=True):
        (dataset.root / example.image).rename(dataset.root / f"new{example.image}")
        renamed.append(replace(example, image=f"new{example.image}", group=group))
    part, name = select_part(model, replace(dataset, examples=tuple(renamed)), None)
    assert (part.images.tolist(), name) == (["newc0.png", "newc1.png"], "test")
    assert check_leakage(model, part).verdict is LeakageVerdict.HELD_OUT
    assert check_leakage(model, replace(dataset, examples=tuple(renamed[:2]))).verdict is LeakageVerdict.TRAINED_ON


def test_a_new_image_of_a_training_group_does_not_count_as_held_out(tmp_path: Path) -> None:
    dataset = write_images(tmp_path / "data", data("abc"))
    model = write_package_tables(tmp_path / "model", dataset, GROUPS)
    assert check_leakage(
        model, write_images(tmp_path / "more", replace(data("a"), examples=(Example("z.png", "z", "a", True),)))
    ).verdict is (LeakageVerdict.TRAINED_ON)


def test_training_images_of_the_initial_weights_package_count_as_training_images(tmp_path: Path) -> None:
    dataset = write_images(tmp_path / "data", data("abc"))
    initial = write_package_tables(tmp_path / "initial", dataset, GROUPS)
    rotated = {"a": Role.TEST, "b": Role.TRAIN, "c": Role.VALIDATION}
    model = write_package_tables(tmp_path / "model", dataset, rotated, initial)
    assert check_leakage(model, dataset.select(dataset.groups == "a")).verdict is LeakageVerdict.TRAINED_ON


def test_an_image_in_two_parts_counts_as_a_training_image(tmp_path: Path) -> None:
    dataset = write_images(tmp_path / "data", data("abc"))
    (tmp_path / "data/c0.png").write_text("a0.png")
    model = write_package_tables(tmp_path / "model", dataset, GROUPS)
    assert check_leakage(model, dataset.select(dataset.images == "c0.png")).verdict is LeakageVerdict.TRAINED_ON
