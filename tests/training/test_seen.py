"""Whether a model has seen the images it is measured on, and which of them are taken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import CARD
from training.data.dataset import Dataset, Example, Role
from training.data.fracatlas import FRACATLAS
from training.data.leakage import FILMS_FILE, LeakageVerdict, check_leakage, choose_part, film_digests, films_table
from training.data.manifest import OWN
from training.data.split import SPLIT_FILE, Split
from xray.errors import UsageError
from xray.network.card import TrainingData
from xray.network.package import ModelPackage

GROUPS = {"a": Role.TRAIN, "b": Role.VALIDATION, "c": Role.TEST}


def data(groups: str, terms: TrainingData = OWN, roles: dict[str, Role] | None = None) -> Dataset:
    examples = [
        Example(f"{group}{i}.png", f"{group}{i}", group, bool(i), "HAND", (roles or {}).get(group))
        for group in groups
        for i in range(2)
    ]
    return Dataset(Path("data"), terms, "fracture", tuple(examples))


def package(folder: Path, roles: dict[str, Role] | None, terms: TrainingData = OWN) -> ModelPackage:
    files = {}
    if roles is not None:
        (folder / SPLIT_FILE).write_text(Split(roles).to_csv())
        files[SPLIT_FILE] = "its digest"
    return ModelPackage(folder, replace(CARD, training_data=(terms,), files=files), "digest")


def test_only_the_test_part_of_the_models_own_split_is_taken_and_it_was_not_seen(tmp_path: Path) -> None:
    model = package(tmp_path, GROUPS)
    part, name = choose_part(model, data("abc"), None)
    assert (set(part.groups.tolist()), name) == ({"c"}, "test")
    assert check_leakage(model, part).verdict is LeakageVerdict.UNSEEN


def test_without_a_test_part_the_validation_part_is_taken_and_that_flatters(tmp_path: Path) -> None:
    model = package(tmp_path, GROUPS)
    part, name = choose_part(model, data("ab"), None)
    assert (set(part.groups.tolist()), name) == ({"b"}, "validation")
    assert check_leakage(model, part).verdict is LeakageVerdict.CHOSEN_ON


def test_groups_that_the_model_learnt_from_are_taken_only_if_asked_for_or_alone_and_said_to_be_seen(
    tmp_path: Path,
) -> None:
    model = package(tmp_path, GROUPS)
    for part, _ in (
        choose_part(model, data("a"), None),
        choose_part(model, data("abc"), "train"),
        choose_part(model, data("abc"), "all"),
    ):
        found = check_leakage(model, part)
        assert found.verdict is LeakageVerdict.SEEN
        assert f"2 of these {len(part)} images" in found.text


def test_new_groups_count_as_test(tmp_path: Path) -> None:
    model = package(tmp_path, GROUPS)
    part, _ = choose_part(model, data("acx"), None)
    assert set(part.groups.tolist()) == {"c", "x"}
    assert check_leakage(model, part).verdict is LeakageVerdict.UNSEEN


def test_data_that_the_split_does_not_know_are_taken_whole_and_may_have_been_seen(tmp_path: Path) -> None:
    model = package(tmp_path, GROUPS)
    part, name = choose_part(model, data("xy"), None)
    assert (len(part), name) == (4, "all")
    assert check_leakage(model, part).verdict is LeakageVerdict.UNKNOWN


def test_a_package_without_a_split_has_seen_all_of_the_data_set_that_its_card_names(tmp_path: Path) -> None:
    model = package(tmp_path, None, FRACATLAS)
    found = check_leakage(model, data("xy", FRACATLAS))
    assert (found.verdict, "trained on FracAtlas" in found.text) == (LeakageVerdict.SEEN, True)
    assert check_leakage(model, data("xy")).verdict is LeakageVerdict.UNKNOWN


def test_other_groups_of_the_data_set_trained_on_are_not_taken_for_unseen(tmp_path: Path) -> None:
    assert check_leakage(package(tmp_path, GROUPS, FRACATLAS), data("cx", FRACATLAS)).verdict is LeakageVerdict.SEEN


def test_the_publishers_parts_serve_where_asked_for(tmp_path: Path) -> None:
    model = package(tmp_path, None)
    published = data("xy", roles={"x": Role.TRAIN, "y": Role.TEST})
    assert len(choose_part(model, published, None)[0]) == 4
    assert np.unique(choose_part(model, published, "test")[0].groups).tolist() == ["y"]


def test_a_part_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no test part; they have: train \(2 images\)"):
        choose_part(package(tmp_path, GROUPS), data("a"), "test")
    with pytest.raises(UsageError, match="leave out --part"):
        choose_part(package(tmp_path, None), data("a"), "test")


def films(folder: Path, dataset: Dataset) -> Dataset:
    """Write a file for each example, and return the data set of them."""
    folder.mkdir()
    for example in dataset.examples:
        (folder / example.image).write_text(example.image)
    return replace(dataset, root=folder)


def telling(
    folder: Path, dataset: Dataset, roles: dict[str, Role], ancestor: ModelPackage | None = None
) -> ModelPackage:
    """Write a package's tables of groups and films."""
    folder.mkdir()
    model = package(folder, roles)
    own = [roles[group] for group in dataset.groups.tolist()]
    (folder / FILMS_FILE).write_bytes(films_table(zip(film_digests(dataset), own, strict=True), ancestor))
    return replace(model, card=replace(model.card, files={SPLIT_FILE: "", FILMS_FILE: ""}))


def test_a_film_is_known_by_its_content_whatever_it_or_its_group_is_called(tmp_path: Path) -> None:
    dataset = films(tmp_path / "data", data("abc"))
    model = telling(tmp_path / "model", dataset, GROUPS)
    renamed = []
    for example, group in zip(dataset.examples, "ccxxyy", strict=True):
        (dataset.root / example.image).rename(dataset.root / f"new{example.image}")
        renamed.append(replace(example, image=f"new{example.image}", group=group))
    part, name = choose_part(model, replace(dataset, examples=tuple(renamed)), None)
    assert (part.images.tolist(), name) == (["newc0.png", "newc1.png"], "test")
    assert check_leakage(model, part).verdict is LeakageVerdict.UNSEEN
    assert check_leakage(model, replace(dataset, examples=tuple(renamed[:2]))).verdict is LeakageVerdict.SEEN


def test_a_new_film_of_a_group_that_was_learnt_from_is_not_taken_for_unseen(tmp_path: Path) -> None:
    dataset = films(tmp_path / "data", data("abc"))
    model = telling(tmp_path / "model", dataset, GROUPS)
    assert check_leakage(
        model, films(tmp_path / "more", replace(data("a"), examples=(Example("z.png", "z", "a", True),)))
    ).verdict is (LeakageVerdict.SEEN)


def test_what_the_package_it_began_as_has_learnt_a_model_has_learnt(tmp_path: Path) -> None:
    dataset = films(tmp_path / "data", data("abc"))
    ancestor = telling(tmp_path / "ancestor", dataset, GROUPS)
    turned = {"a": Role.TEST, "b": Role.TRAIN, "c": Role.VALIDATION}
    model = telling(tmp_path / "model", dataset, turned, ancestor)
    assert check_leakage(model, dataset.select(dataset.groups == "a")).verdict is LeakageVerdict.SEEN


def test_a_film_in_two_parts_counts_as_learnt_from(tmp_path: Path) -> None:
    dataset = films(tmp_path / "data", data("abc"))
    (tmp_path / "data/c0.png").write_text("a0.png")
    model = telling(tmp_path / "model", dataset, GROUPS)
    assert check_leakage(model, dataset.select(dataset.images == "c0.png")).verdict is LeakageVerdict.SEEN
