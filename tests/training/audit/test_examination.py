"""The split that an audit examines."""

from tests.training.audit.conftest import examine_distinct
from training.audit.examination import FOLDS, SEED, TEST, VALIDATION
from training.data.dataset import Example, Role
from training.recipes import RECIPES


def test_an_audit_splits_the_data_as_the_recipes_do() -> None:
    assert {bool(recipe.folds) for recipe in RECIPES.values()} == {False, True}
    for recipe in RECIPES.values():
        assert (recipe.validation, recipe.test, recipe.seed) == (VALIDATION, TEST, SEED)
        assert recipe.folds in (0, FOLDS)


def test_the_publishers_test_part_is_kept() -> None:
    examples = [
        Example(f"{i}.png", f"s{i}", f"p{i}", i % 2 == 0, "HAND", Role.TEST if i % 4 == 0 or i % 4 == 1 else Role.TRAIN)
        for i in range(60)
    ]
    examination = examine_distinct(examples)
    assert {e.image for e, part in zip(examples, examination.parts, strict=True) if part == "test"} == {
        e.image for e in examples if e.role is Role.TEST
    }
    assert "publisher" in examination.split
