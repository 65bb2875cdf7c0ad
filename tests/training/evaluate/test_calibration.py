"""Calibration: fits recover the parameters that generated the labels, and errors are computed correctly."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from tests.training.evaluate.predicted import of, predicted
from training.evaluate.calibration import (
    best_temperature,
    expected_calibration_error,
    fit_platt,
    fit_temperature,
    is_flat,
    reliability_bins,
    summarise_calibration,
)
from training.evaluate.metrics import auroc
from xray.network.card import Calibration


def drawn(slope: float, intercept: float, n: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, n)
    return logits, rng.random(n) < Calibration(slope, intercept).apply(logits)


def test_platt_scaling_recovers_the_slope_and_intercept_that_generated_the_labels() -> None:
    found = fit_platt(*drawn(0.6, -1.0))
    assert (found.slope, found.intercept) == pytest.approx((0.6, -1.0), abs=0.05)


def test_platt_scaling_agrees_with_libsvm() -> None:
    # A and B by LIBSVM for these decision values and labels, as in scikit-learn's tests; its sign is the other.
    found = fit_platt(np.array([5.0, -4.0, 1.0]), np.array([True, False, False]))
    assert (found.slope, found.intercept) == pytest.approx((0.20261354391187855, -0.65236314980010512), abs=1e-4)


def test_perfectly_separated_logits_get_platts_targets_and_no_endless_slope() -> None:
    labels = np.arange(20) < 10
    found = fit_platt(np.where(labels, 3.0, -3.0), labels)
    np.testing.assert_allclose(found.apply([3.0, -3.0]), [11 / 12, 1 / 12], atol=1e-4)


def logits_and_labels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels that go with their logits, against them or neither; few or many, with ties, or all the same."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    labels = rng.random(n) < rng.uniform(0.05, 0.95)
    labels[:2] = True, False
    logits = rng.normal(size=n) + rng.uniform(-3, 3) * labels
    logits = np.round(logits, int(rng.integers(0, 4))) * 10.0 ** rng.integers(-3, 2) + rng.uniform(-5, 5)
    return (logits if seed % 20 else np.full(n, 0.1)), labels


def test_probabilities_rank_images_as_their_logits_do_whatever_the_labels() -> None:
    turned = 0
    for seed in range(400):
        logits, labels = logits_and_labels(seed)
        calibration = fit_platt(logits, labels)
        assert 0.01 <= calibration.slope <= 100
        probabilities = calibration.apply(logits)
        assert auroc(labels, probabilities) == auroc(labels, logits), f"seed {seed}"
        assert (np.diff(probabilities[np.argsort(logits)]) >= 0).all(), f"seed {seed}"
        turned += auroc(labels, logits) < 0.5
    assert 100 < turned < 300, "the labels of about half of the draws contradict the logits"


def test_no_other_slope_or_intercept_in_the_range_is_likelier() -> None:
    for seed in range(1, 20):
        logits, labels = logits_and_labels(seed)
        positives, negatives = labels.sum(), (~labels).sum()
        targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))

        def loss(slope: float, shift: float, logits: np.ndarray = logits, targets: np.ndarray = targets) -> float:
            z = slope * logits + shift
            return float((np.logaddexp(0, z) - targets * z).mean())

        found = fit_platt(logits, labels)
        least, centre = loss(found.slope, found.intercept), logits.mean()
        for factor in (0.9, 1.1):
            slope = min(max(factor * found.slope, 0.01), 100)
            assert least <= loss(slope, found.intercept + (found.slope - slope) * centre) + 1e-9, f"seed {seed}"
        for shift in (-0.1, 0.1):
            assert least < loss(found.slope, found.intercept + shift), f"seed {seed}"


@pytest.mark.parametrize(("sign", "flat"), [(1, False), (-1, True), (0, True)])
def test_a_calibration_of_logits_that_contradict_the_labels_is_flat(sign: int, flat: bool) -> None:
    labels = np.arange(40) % 4 == 0
    found = fit_platt(sign * (labels + np.arange(40) % 3 - 1.5), labels)
    assert is_flat(found) is flat
    if flat:
        # What is left is the share of positives.
        assert found.apply(sign * (labels + np.arange(40) % 3 - 1.5)).mean() == pytest.approx(0.25, abs=0.02)


def test_temperature_scaling_recovers_the_temperature_that_generated_the_labels_and_has_no_intercept() -> None:
    found = fit_temperature(*drawn(0.4, 0.0))
    assert 1 / found.slope == pytest.approx(2.5, abs=0.1)
    assert found.intercept == 0


def test_no_other_temperature_is_likelier() -> None:
    logits, labels = drawn(0.4, -0.5, n=500)
    signs = np.where(labels, 1, -1)
    best = fit_temperature(logits, labels).slope
    loss = {slope: np.logaddexp(0, -signs * slope * logits).mean() for slope in (0.99 * best, best, 1.01 * best)}
    assert min(loss, key=loss.__getitem__) == best


@pytest.mark.parametrize(("sign", "slope"), [(1, 100.0), (-1, 0.01)])
def test_logits_that_separate_the_classes_or_contradict_them_get_the_end_of_the_range(sign: int, slope: float) -> None:
    logits = np.array([-2.0, -1.0, 1.0, 2.0])
    assert fit_temperature(sign * logits, logits > 0).slope == pytest.approx(slope)


def test_one_class_has_no_best_temperature() -> None:
    assert best_temperature(of(np.arange(3.0), np.ones(3, np.bool_))) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_that_separate_the_classes_or_contradict_them_have_no_best_temperature(sign: int) -> None:
    logits = np.array([-2.0, -1.0, 1.0, 2.0])
    assert best_temperature(of(sign * logits, logits > 0)) is None


def test_overconfident_probabilities_have_a_calibration_error_that_a_temperature_corrects() -> None:
    logits, labels = drawn(0.4, 0.0)
    rows = of(logits, labels)
    best = best_temperature(rows)
    assert best is not None
    assert best.temperature == pytest.approx(2.5, abs=0.1)
    assert summarise_calibration(rows).expected_calibration_error > 0.1
    assert best.expected_calibration_error < 0.02


def test_the_calibration_error_is_the_mean_distance_over_the_bins() -> None:
    # Two bins of two: probability 0.1 and half are positive; probability 0.9 and all are.
    rows = of(np.log([1 / 9, 1 / 9, 9, 9]), np.array([True, False, True, True]))
    bins = reliability_bins(rows, bins=2)
    assert [(b.n, b.positive) for b in bins] == [(2, 0.5), (2, 1.0)]
    assert expected_calibration_error(bins) == pytest.approx((0.4 + 0.1) / 2)


def test_bins_are_of_about_equal_mass_and_keep_equal_probabilities_together() -> None:
    rows = predicted(groups=150)
    bins = reliability_bins(rows)
    assert sum(b.n for b in bins) == len(rows)
    assert len(bins) == 15
    assert max(b.n for b in bins) < 2 * len(rows) / 15
    assert [b.probability for b in bins] == sorted(b.probability for b in bins)
    same = reliability_bins(of(np.zeros(10), np.arange(10) < 3))
    assert [(b.n, b.positive) for b in same] == [(10, 0.3)]


def test_a_share_of_zero_still_has_an_interval_and_images_of_one_group_count_once() -> None:
    labels = np.zeros(20, np.bool_)
    (alone,) = reliability_bins(of(np.zeros(20), labels))
    (together,) = reliability_bins(of(np.zeros(20), labels, groups=np.repeat(["a", "b"], 10)))
    assert (alone.low, together.low) == (0, 0)
    # Wilson's upper end for none of n is z^2 / (n + z^2)
    assert alone.high == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-4)
    assert together.high == pytest.approx(1.96**2 / (2 + 1.96**2), abs=1e-4)


def test_the_brier_score_agrees_with_scikit_learn() -> None:
    rows = predicted()
    found = summarise_calibration(rows)
    assert found.brier == pytest.approx(brier_score_loss(rows.labels, rows.probabilities), abs=1e-9)
    assert (found.prevalence, found.mean_probability) == (rows.labels.mean(), rows.probabilities.mean())
