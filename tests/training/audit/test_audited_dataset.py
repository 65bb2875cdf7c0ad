"""The split that an audit checks."""

from tests.training.audit.conftest import audit_distinct
from training.audit.audited_dataset import FOLDS_RECIPE, SPLIT_RECIPE
from training.data.dataset import Example, Role
from training.recipes import RECIPES


def test_an_audit_splits_the_data_as_every_recipe_does() -> None:
    for recipe in RECIPES.values():
        assert (recipe.validation, recipe.test) == (SPLIT_RECIPE.validation, SPLIT_RECIPE.test)
        assert recipe.seed == SPLIT_RECIPE.seed == FOLDS_RECIPE.seed
        assert recipe.folds in (0, FOLDS_RECIPE.folds)


def test_the_publishers_test_part_is_kept() -> None:
    examples = [
        Example(f"{i}.png", f"s{i}", f"p{i}", i % 2 == 0, "HAND", Role.TEST if i % 4 == 0 or i % 4 == 1 else Role.TRAIN)
        for i in range(60)
    ]
    audited = audit_distinct(examples)
    assert {e.image for e, part in zip(examples, audited.parts, strict=True) if part == "test"} == {
        e.image for e in examples if e.role is Role.TEST
    }
    assert "publisher" in audited.split
