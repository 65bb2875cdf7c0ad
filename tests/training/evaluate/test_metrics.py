"""Metrics against scikit-learn, and the slow bootstrap that the fast one is tested against."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.training.evaluate.group_interval import group_interval
from training.evaluate.metrics import (
    auroc,
    average_precision,
    rates,
    sensitivity_threshold,
    youden_threshold,
)


def cases() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    made = []
    for size in (2, 3, 10, 100, 1000):
        for levels in (2, 7, 10**9):
            labels = rng.random(size) < 0.3
            labels[:2] = True, False
            made.append((labels, np.round(rng.random(size) * levels) / levels + 0.2 * labels))
    return made


def test_auroc_agrees_with_scikit_learn_ties_included() -> None:
    for labels, scores in cases():
        assert auroc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-9)


def test_average_precision_agrees_with_scikit_learn_ties_included() -> None:
    for labels, scores in cases():
        expected = sklearn_metrics.average_precision_score(labels, scores)
        assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-9)


def test_rates_at_a_threshold_agree_with_scikit_learn() -> None:
    for labels, scores in cases():
        threshold = float(np.median(scores))
        (tn, fp), (fn, tp) = sklearn_metrics.confusion_matrix(labels, scores >= threshold)
        found = rates(labels, scores, threshold)
        assert found.sensitivity == pytest.approx(tp / (tp + fn), abs=1e-9)
        assert found.specificity == pytest.approx(tn / (tn + fp), abs=1e-9)
        assert found.accuracy == pytest.approx((tp + tn) / len(labels), abs=1e-9)
        assert found.kappa == pytest.approx(sklearn_metrics.cohen_kappa_score(labels, scores >= threshold), abs=1e-9)


def test_classifying_everything_positive_has_a_kappa_of_zero() -> None:
    assert rates(np.array([True, False, False]), np.ones(3), 0.5).kappa == 0


def test_no_threshold_has_a_larger_sensitivity_plus_specificity_than_youdens() -> None:
    for labels, scores in cases():
        fpr, tpr, _ = sklearn_metrics.roc_curve(labels, scores)
        found = rates(labels, scores, youden_threshold(labels, scores))
        assert found.sensitivity + found.specificity - 1 == pytest.approx((tpr - fpr).max(), abs=1e-9)


def test_the_sensitivity_threshold_is_the_highest_that_reaches_the_sensitivity() -> None:
    for labels, scores in cases():
        threshold = sensitivity_threshold(labels, scores, 0.9)
        assert rates(labels, scores, threshold).sensitivity >= 0.9
        assert rates(labels, scores, float(np.nextafter(threshold, np.inf))).sensitivity < 0.9


def test_metrics_of_one_class_alone_are_refused() -> None:
    for metric in (auroc, average_precision, youden_threshold):
        with pytest.raises(ValueError, match="both classes"):
            metric(np.ones(3, np.bool_), np.arange(3.0))


def test_the_interval_widens_when_images_of_a_group_are_alike() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(40) < 0.5
    scores = rng.normal(size=40) + labels
    labels, scores, groups = np.repeat(labels, 10), np.repeat(scores, 10), np.repeat(np.arange(40), 10)

    def area(drawn: np.ndarray) -> float:
        return auroc(labels[drawn], scores[drawn])

    low, high = group_interval(area, groups, repeats=300)
    alone_low, alone_high = group_interval(area, np.arange(400), repeats=300)
    assert low < auroc(labels, scores) < high
    assert high - low > 2 * (alone_high - alone_low)


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    labels, scores = np.arange(50) % 3 == 0, np.random.default_rng(0).random(50)
    groups = np.arange(50) // 2
    found = [group_interval(lambda drawn: auroc(labels[drawn], scores[drawn]), groups, repeats=50) for _ in range(2)]
    assert found[0] == found[1]


def test_an_interval_without_resamples_of_both_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="too few resamples"):
        group_interval(lambda _: auroc(np.ones(3, np.bool_), np.ones(3)), np.arange(3), repeats=5)
