"""Problems: what an audit reports, and what it does not."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.training.audit.conftest import audit_distinct, audited_image, by_code, file_names
from tests.training.audit.faulty_data import limb
from training.audit.audited_dataset import AuditedDataset, audit_dataset
from training.audit.problems import Problem, Severity, conclusion
from training.audit.read_images import read_images
from training.data.dataset import Dataset, Example, Role
from training.data.fracatlas import FRACATLAS
from training.data.read_dataset import read_dataset
from training.progress import Progress


def test_unreadable_files_are_reported_by_reason(audited: AuditedDataset) -> None:
    problem = by_code(audited)["unreadable-truncated"]
    assert (problem.severity, file_names(problem)) == (Severity.WARNING, {frozenset({"truncated.png"})})


def test_duplicates_with_different_labels_are_an_error(audited: AuditedDataset) -> None:
    problem = by_code(audited)["conflicting-labels"]
    assert (problem.severity, file_names(problem)) == (Severity.ERROR, {frozenset({"image13.png", "relabelled.jpg"})})


def test_duplicates_in_two_parts_of_the_split_are_an_error(folder: Path, tmp_path: Path) -> None:
    dataset = read_dataset(folder)
    table = tmp_path / "split.csv"
    roles = {group: "test" if group == "<b>other</b>" else "train" for group in dataset.groups.tolist()}
    table.write_text("group,role\n" + "".join(f"{group},{role}\n" for group, role in roles.items()))
    problem = by_code(audit_dataset(dataset, read_images(dataset), table, Progress()))["across-split"]
    assert (problem.severity, file_names(problem)) == (Severity.ERROR, {frozenset({"image16.png", "elsewhere.jpg"})})


def test_inverted_and_blank_images_are_reported_and_no_others(audited: AuditedDataset) -> None:
    assert file_names(by_code(audited)["maybe-inverted"]) == {frozenset({"inverted.png"})}
    assert file_names(by_code(audited)["blank"]) == {frozenset({"blank.png"}), frozenset({"blank2.png"})}


def test_data_that_cannot_be_split_are_an_error_with_the_reason() -> None:
    examples = [Example(f"{i}.png", f"s{i}", "one", i % 2 == 0, "HAND") for i in range(8)]
    found = by_code(audit_distinct(examples))
    assert found["no-split"].severity is Severity.ERROR
    assert (
        "with the recipe humerus-baseline or humerus would fail immediately: a test part of about 15%"
        in found["no-split"].advice
    )
    assert found["no-folds"].severity is Severity.ERROR
    assert "with the recipe fracture would fail immediately: 1 group cannot be divided" in found["no-folds"].advice
    assert found["huge-group"].count == 8


def test_data_that_only_some_recipes_can_use_are_a_warning() -> None:
    parted = [Example(f"{i}.png", f"s{i}", f"p{i // 2}", i % 2 == 0, role=Role.TEST) for i in range(20)]
    found = by_code(audit_distinct(parted))
    assert (found["no-split"].severity, "no-folds" in found) == (Severity.WARNING, False)
    few = [Example(f"{i}.png", f"s{i}", f"p{i // 2}", i % 2 == 0) for i in range(8)]
    found = by_code(audit_distinct(few))
    assert (found["no-folds"].severity, "no-split" in found) == (Severity.WARNING, False)


def test_labels_that_follow_the_body_part_or_differ_within_a_study_are_reported() -> None:
    limbs = [Example(f"{i}.png", f"s{i // 2}", f"p{i // 2}", i % 2 == 0, "HAND") for i in range(40)]
    hips = [Example(f"h{i}.png", f"h{i}", f"h{i}", False, "HIP") for i in range(20)]
    found = by_code(audit_distinct([*limbs, *hips]))
    assert "HIP are negative" in found["body-part-of-one-class"].title
    assert (found["mixed-studies"].count, found["mixed-studies"].count_text) == (20, "20 studies")


def test_images_smaller_than_the_networks_input_are_reported() -> None:
    examples = tuple(Example(f"{i}.png", f"{i}", f"{i}", i % 2 == 0) for i in range(20))
    images = [audited_image(limb(seed)[: 260 if seed else 100, : 200 if seed else 80], str(seed)) for seed in range(20)]
    found = by_code(audit_dataset(Dataset(Path(), FRACATLAS, "fracture", examples), images, None, Progress()))["tiny"]
    assert (found.images, found.captions) == ((("0.png",),), ("80 x 100",))


def test_the_conclusion_counts_errors_and_warnings() -> None:
    def problem(severity: Severity) -> Problem:
        return Problem("x", severity, "x", 1, "image", "x")

    error, warning, note = (problem(severity) for severity in Severity)
    assert conclusion([error, warning, warning]).startswith(
        "Not ready to train on: 1 error to correct first, 2 warnings"
    )
    assert conclusion([warning, note]) == "Ready to train on; look at 1 warning first."
    assert conclusion([note]) == "Ready to train on: no errors and no warnings."


def test_pictures_that_training_leaves_out_are_reported_with_the_reason_and_shown(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (260, 200), np.uint8)
    examples = tuple(Example(f"{i}.png", f"s{i}", f"p{i}", i % 2 == 0) for i in range(4))
    for seed, example in enumerate(examples):
        Image.fromarray(limb(seed) if seed else noise).save(tmp_path / example.image)
    dataset = Dataset(tmp_path, FRACATLAS, "fracture", examples)

    problem = by_code(audit_dataset(dataset, read_images(dataset), None, Progress()))["implausible"]

    assert (file_names(problem), problem.severity, problem.has_pictures) == (
        {frozenset({"0.png"})},
        Severity.WARNING,
        True,
    )
    assert "neighbouring pixels are unrelated" in problem.captions[0]
