"""What the doctor finds in a data set, and what it leaves alone."""

from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from tests.training.audit.faulty_data import limb, planted
from training.audit.examination import FOLDS, SEED, TEST, VALIDATION, Examination, examine
from training.audit.findings import CROSS_VALIDATING, PARTING, Finding, Severity, all_findings, verdict
from training.audit.near_duplicates import DuplicateKind, Fingerprints, Pair, find_duplicates, join_groups
from training.audit.report import AuditReport
from training.audit.survey import AuditedImage, blank, looks_inverted, stack_small, survey
from training.data.dataset import Dataset, Example, Role
from training.data.fracatlas import FRACATLAS
from training.data.read_dataset import read_dataset, read_groups
from training.recipes import RECIPES
from xray.vocabulary import Reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("doctor") / "data"
    planted(made)
    return made


@pytest.fixture(scope="module")
def examined(folder: Path) -> Examination:
    dataset = read_dataset(folder)
    return examine(dataset, survey(dataset), None)


def named(examined: Examination) -> dict[str, Finding]:
    return {finding.code: finding for finding in all_findings(examined)}


def names(finding: Finding) -> set[frozenset[str]]:
    return {frozenset(Path(image).name for image in together) for together in finding.images}


def one_by_one(examples: list[Example], root: Path = Path()) -> Examination:
    """Examine films that are all different and readable, by their labels and groups alone."""
    films = [film_of(limb(seed), str(seed)) for seed in range(len(examples))]
    return examine(Dataset(root, FRACATLAS, "fracture", tuple(examples)), films, None)


def film_of(gray: np.ndarray, name: str) -> AuditedImage:
    small = Image.fromarray(gray).resize((64, 64), Image.Resampling.BILINEAR)
    return AuditedImage(name, name, *gray.shape, small.tobytes())


def test_each_kind_of_copy_is_found_and_no_other_pair(examined: Examination) -> None:
    images = [Path(image).name for image in examined.dataset.images.tolist()]
    found = {(images[pair.first], images[pair.second]): pair.kind for pair in examined.pairs}
    hostile = next(image for image in images if "script" in image)
    assert found == {
        ("film01.png", "exact.png"): DuplicateKind.BYTES,
        ("film02.png", "tiff.tif"): DuplicateKind.PIXELS,
        ("film20.png", hostile): DuplicateKind.BYTES,
        ("film04.png", "jpeg.jpg"): DuplicateKind.NEAR,
        ("film07.png", "smaller.png"): DuplicateKind.NEAR,
        ("film08.png", "brighter.png"): DuplicateKind.NEAR,
        ("film13.png", "relabelled.jpg"): DuplicateKind.NEAR,
        ("film16.png", "elsewhere.jpg"): DuplicateKind.NEAR,
        ("film10.png", "mirrored.png"): DuplicateKind.MIRRORED,
        ("film11.png", "inverted.png"): DuplicateKind.INVERTED,
    }


def test_files_that_cannot_be_read_are_named_by_reason(examined: Examination) -> None:
    finding = named(examined)["unreadable-truncated"]
    assert (finding.severity, names(finding)) == (Severity.WARNING, {frozenset({"truncated.png"})})


def test_copies_with_different_labels_are_an_error(examined: Examination) -> None:
    finding = named(examined)["conflicting-labels"]
    assert (finding.severity, names(finding)) == (Severity.ERROR, {frozenset({"film13.png", "relabelled.jpg"})})


def test_copies_in_two_groups_are_found_and_the_suggested_groups_join_them(examined: Examination, folder: Path) -> None:
    assert names(named(examined)["across-groups"]) == {frozenset({"film16.png", "elsewhere.jpg"})}
    groups = AuditReport.of(examined, examined.listed).groups
    assert groups["images/elsewhere.jpg"] == groups["images/film16.png"] == groups["images/film17.png"]
    assert groups["images/film18.png"] == "p09"
    assert len(set(groups.values())) == 30


def test_copies_across_the_split_are_an_error(folder: Path, tmp_path: Path) -> None:
    dataset = read_dataset(folder)
    table = tmp_path / "split.csv"
    roles = {group: "test" if group == "<b>other</b>" else "train" for group in dataset.groups.tolist()}
    table.write_text("group,role\n" + "".join(f"{group},{role}\n" for group, role in roles.items()))
    finding = named(examine(dataset, survey(dataset), table))["across-split"]
    assert (finding.severity, names(finding)) == (Severity.ERROR, {frozenset({"film16.png", "elsewhere.jpg"})})


def test_inverted_and_blank_films_are_named_and_no_others(examined: Examination) -> None:
    assert names(named(examined)["maybe-inverted"]) == {frozenset({"inverted.png"})}
    assert names(named(examined)["blank"]) == {frozenset({"blank.png"}), frozenset({"blank2.png"})}


def test_the_hint_of_inversion_finds_every_limb_once_inverted() -> None:
    small = stack_small([film_of(limb(seed), "") for seed in range(40)])
    assert not looks_inverted(small).any()
    assert looks_inverted(255 - small).all()
    assert not blank(small).any()


def test_films_of_one_view_and_random_textures_are_no_copies() -> None:
    rng = np.random.default_rng(3)
    limbs = [film_of(limb(seed), f"limb{seed}") for seed in range(300)]
    blurred = np.kron(rng.integers(0, 256, (100, 8, 8), np.uint8), np.ones((1, 16, 16), np.uint8))
    textures = [film_of(texture, f"texture{place}") for place, texture in enumerate(blurred)]
    assert find_duplicates([*limbs, *textures]) == ()


def test_many_copies_of_one_file_make_a_pair_each_with_the_first() -> None:
    films = [film_of(limb(0), "same")] * 50
    pairs = find_duplicates(films)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, place) for place in range(1, 50)]


def test_hashes_are_imagehashs_own() -> None:
    film = np.asarray(Image.fromarray(limb(5)).resize((64, 64)))
    (found,) = Fingerprints.of(film[None]).hashes.tolist()
    assert int(found).to_bytes(8, "little").hex() == str(imagehash.phash(Image.fromarray(film)))


def test_groups_join_over_several_steps_under_their_first_name() -> None:
    pairs = [
        Pair(0, 2, DuplicateKind.NEAR, 1.0),
        Pair(4, 2, DuplicateKind.NEAR, 1.0),
        Pair(5, 4, DuplicateKind.NEAR, 1.0),
    ]
    joined = join_groups(["c", "x", "b", "y", "d", "a"], pairs)
    assert joined == {"c": "a", "b": "a", "d": "a", "a": "a", "x": "x", "y": "y"}


def test_data_that_cannot_be_split_are_an_error_that_says_why() -> None:
    examples = [Example(f"{i}.png", f"s{i}", "one", i % 2 == 0, "HAND") for i in range(8)]
    found = named(one_by_one(examples))
    assert found["no-split"].severity is Severity.ERROR
    assert "by the recipe seed or humerus would stop at once: a test part of about 15%" in found["no-split"].advice
    assert found["no-folds"].severity is Severity.ERROR
    assert "by the recipe fracture would stop at once: 1 groups cannot be cut" in found["no-folds"].advice
    assert found["huge-group"].count == 8


def test_recipes_that_would_stop_are_named_while_others_would_go_on() -> None:
    parted = [Example(f"{i}.png", f"s{i}", f"p{i // 2}", i % 2 == 0, role=Role.TEST) for i in range(20)]
    found = named(one_by_one(parted))
    assert (found["no-split"].severity, "no-folds" in found) == (Severity.WARNING, False)
    few = [Example(f"{i}.png", f"s{i}", f"p{i // 2}", i % 2 == 0) for i in range(8)]
    found = named(one_by_one(few))
    assert (found["no-folds"].severity, "no-split" in found) == (Severity.WARNING, False)


def test_the_doctor_splits_and_names_recipes_as_the_recipes_are() -> None:
    parting = tuple(name for name, recipe in RECIPES.items() if not recipe.folds)
    assert (parting, tuple(RECIPES.keys() - set(parting))) == (PARTING, CROSS_VALIDATING)
    for recipe in RECIPES.values():
        assert (recipe.validation, recipe.test, recipe.seed) == (VALIDATION, TEST, SEED)
        assert recipe.folds in (0, FOLDS)


def test_a_film_mirrored_and_inverted_is_found() -> None:
    films = [film_of(limb(seed), str(seed)) for seed in range(20)]
    (pair,) = find_duplicates([*films, film_of(255 - limb(7)[:, ::-1], "again")])
    assert (pair.first, pair.second, pair.kind) == (7, 20, DuplicateKind.MIRRORED_INVERTED)


def test_a_publishers_test_part_stands_and_one_class_in_it_is_said() -> None:
    examples = [
        Example(f"{i}.png", f"s{i}", f"p{i}", i % 2 == 0, "HAND", Role.TEST if i % 4 == 0 or i % 4 == 1 else Role.TRAIN)
        for i in range(60)
    ]
    examined = one_by_one(examples)
    assert {e.image for e, part in zip(examples, examined.parts, strict=True) if part == "test"} == {
        e.image for e in examples if e.role is Role.TEST
    }
    assert "publisher" in examined.split


def test_labels_that_go_with_the_body_part_or_differ_within_a_study_are_said() -> None:
    limbs = [Example(f"{i}.png", f"s{i // 2}", f"p{i // 2}", i % 2 == 0, "HAND") for i in range(40)]
    hips = [Example(f"h{i}.png", f"h{i}", f"h{i}", False, "HIP") for i in range(20)]
    found = named(one_by_one([*limbs, *hips]))
    assert "HIP are negative" in found["body-part-of-one-class"].title
    assert (found["mixed-studies"].count, found["mixed-studies"].counted) == (20, "20 studies")


def test_films_smaller_than_the_networks_input_are_said() -> None:
    examples = tuple(Example(f"{i}.png", f"{i}", f"{i}", i % 2 == 0) for i in range(20))
    films = [film_of(limb(seed)[: 260 if seed else 100, : 200 if seed else 80], str(seed)) for seed in range(20)]
    found = named(examine(Dataset(Path(), FRACATLAS, "fracture", examples), films, None))["tiny"]
    assert (found.images, found.captions) == ((("0.png",),), ("80 x 100",))


def test_data_of_which_nothing_can_be_read_have_a_report(tmp_path: Path) -> None:
    examples = tuple(Example(f"{i}.png", f"{i}", f"{i}", i % 2 == 0) for i in range(3))
    dataset = Dataset(tmp_path, FRACATLAS, "fracture", examples)
    # an empty folder would be a disk that is not mounted
    (tmp_path / "notes.txt").write_text("moved")
    assert list(survey(dataset)) == [Reason.VANISHED] * 3
    AuditReport.of(examine(dataset, survey(dataset), None), dataset).write(tmp_path / "out")
    assert "the file is no longer in the archive" in (tmp_path / "out" / "report.html").read_text()


def test_the_verdict_counts_what_stands_in_the_way() -> None:
    def finding(severity: Severity) -> Finding:
        return Finding("x", severity, "x", 1, "image", "x")

    error, warning, note = (finding(severity) for severity in Severity)
    assert verdict([error, warning, warning]).startswith("Not ready to train on: 1 error to mend first, 2 warnings")
    assert verdict([warning, note]) == "Can be trained on; look at 1 warning first."
    assert verdict([note]) == "Nothing was found that speaks against training."


def test_the_suggested_groups_can_be_trained_with(examined: Examination, folder: Path, tmp_path: Path) -> None:
    AuditReport.of(examined, examined.listed).write(tmp_path)
    assert len(read_groups(tmp_path / "groups.csv")) == len(examined.listed)
    again = read_dataset(folder, groups=tmp_path / "groups.csv")
    assert "across-groups" not in named(examine(again, survey(again), None))
