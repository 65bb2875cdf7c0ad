"""Cross-validation: groups are never parted, and the heads learn what can be learned."""

import dataclasses

import numpy as np
import pytest

from training.crossval import assign_folds, cross_validate
from training.evaluate import evaluate, fit_platt
from training.fit import fit_head
from training.recipe import RECIPES
from xray.cam import head_forward
from xray.errors import UsageError
from xray.metrics import auroc

RECIPE = dataclasses.replace(
    RECIPES["fracture-densenet169"], head=(8, 4), dropout=0.0, batch_size=16, folds=3, max_epochs=12, learning_rate=1e-2
)


def learnable(count: int = 240, channels: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.random(count) < 0.3
    pooled = rng.normal(size=(count, channels)).astype(np.float32)
    pooled[:, 0] += 3 * labels
    return pooled, labels, (np.arange(count) // 8).astype(str)


def test_no_group_lies_in_two_folds_and_every_image_in_one() -> None:
    _, labels, groups = learnable()
    for seed in range(5):
        folds = assign_folds(labels, groups, 5, seed)
        assert set(folds) == set(range(5))
        assert all(len(set(folds[groups == group])) == 1 for group in np.unique(groups))


def test_folds_are_the_same_for_the_same_seed() -> None:
    _, labels, groups = learnable()
    np.testing.assert_array_equal(assign_folds(labels, groups, 5, 1), assign_folds(labels, groups, 5, 1))


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="2 groups cannot be cut into 5 folds"):
        assign_folds(np.arange(10) % 2 == 0, np.repeat(["a", "b"], 5), 5, 0)


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
def test_groups_that_leave_a_fold_with_one_class_are_refused() -> None:
    labels = np.repeat([True, False, False, False], 5)
    with pytest.raises(UsageError, match="with one class only"):
        assign_folds(labels, np.repeat(["a", "b", "c", "d"], 5), 4, 0)


def test_heads_learn_what_can_be_learned_and_no_image_is_judged_by_a_head_that_saw_its_group() -> None:
    pooled, labels, groups = learnable()
    result = cross_validate(pooled, labels, groups, RECIPE)
    assert auroc(labels, result.logits) > 0.85
    for fold, head in enumerate(result.heads):
        held_out = result.folds == fold
        expected, _, _ = head_forward(pooled[held_out, None, None, :], head)
        np.testing.assert_allclose(result.logits[held_out], expected)
        again, _ = fit_head(pooled[~held_out], labels[~held_out], RECIPE, result.epochs[fold])
        np.testing.assert_allclose(again.kernels[0], head.kernels[0], atol=1e-5)


def test_labels_without_meaning_are_not_learned() -> None:
    pooled, labels, groups = learnable()
    shuffled = np.random.default_rng(1).permutation(labels)
    assert 0.3 < auroc(shuffled, cross_validate(pooled, shuffled, groups, RECIPE).logits) < 0.7


def test_platts_scaling_finds_the_probabilities_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000)
    labels = rng.random(20_000) < 1 / (1 + np.exp(-(1.5 * logits - 2)))
    calibration = fit_platt(logits, labels)
    assert calibration.slope == pytest.approx(1.5, abs=0.1)
    assert calibration.intercept == pytest.approx(-2, abs=0.1)


def test_every_metric_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.3
    evaluation = evaluate(rng.normal(size=300) + labels, labels, (np.arange(300) // 5).astype(str), labels | True)
    assert {metric.name.split()[0] for metric in evaluation.metrics} >= {"AUROC", "sensitivity", "specificity"}
    assert all(metric.low <= metric.value <= metric.high for metric in evaluation.metrics)
