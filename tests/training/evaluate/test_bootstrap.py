"""The fast bootstrap against the slow one and scikit-learn's weighted metrics, and the coverage of its intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from tests.training.evaluate.group_interval import group_interval
from tests.training.evaluate.predicted import predicted
from training.evaluate.bootstrap import WeightedMetrics, percentile_interval, resample_groups, resample_means
from training.evaluate.metrics import auroc, average_precision, rates


@st.composite
def weighted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Labels, scores with ties, weights with zeros, and a threshold that may be beyond all scores."""
    size = draw(st.integers(2, 30))
    labels = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    scores = np.array(draw(st.lists(st.integers(0, 6), min_size=size, max_size=size))) / 6
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)), np.int32)
    labels[:2], weights[:2] = (True, False), np.maximum(weights[:2], 1)
    return labels, scores, weights, draw(st.sampled_from([-1.0, 0.0, 0.5, 0.6, 1.0, 2.0]))


@settings(max_examples=300, deadline=None)
@given(weighted())
def test_every_metric_agrees_with_scikit_learns_under_the_same_weights(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, float],
) -> None:
    labels, scores, weights, threshold = case
    flagged = scores >= threshold
    found = WeightedMetrics(labels, scores, [threshold]).compute(weights[None])[0]
    expected = [
        sklearn_metrics.roc_auc_score(labels, scores, sample_weight=weights),
        sklearn_metrics.average_precision_score(labels, scores, sample_weight=weights),
        sklearn_metrics.recall_score(labels, flagged, sample_weight=weights),
        sklearn_metrics.recall_score(~labels, ~flagged, sample_weight=weights),
        sklearn_metrics.accuracy_score(labels, flagged, sample_weight=weights),
        sklearn_metrics.cohen_kappa_score(labels, flagged, sample_weight=weights),
    ]
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_intervals_equal_those_of_drawing_row_by_row() -> None:
    rows = predicted(groups=12)
    labels, scores = rows.labels, rows.probabilities
    draws = resample_groups(labels, rows.groups, repeats=200, seed=3)
    lows, highs = percentile_interval(
        np.concatenate([WeightedMetrics(labels, scores, [0.4, 0.6]).compute(w) for w in draws])
    )
    slow = [
        lambda drawn: auroc(labels[drawn], scores[drawn]),
        lambda drawn: average_precision(labels[drawn], scores[drawn]),
        *(
            lambda drawn, t=t, name=name: getattr(rates(labels[drawn], scores[drawn], t), name)
            for t in (0.4, 0.6)
            for name in ("sensitivity", "specificity", "accuracy", "kappa")
        ),
    ]
    expected = [group_interval(statistic, rows.groups, repeats=200, seed=3) for statistic in slow]
    assert np.stack([lows, highs], axis=1) == pytest.approx(np.array(expected), abs=1e-9)


def test_the_interval_of_a_mean_equals_that_of_drawing_row_by_row() -> None:
    rows = predicted()
    values = np.stack([rows.logits, rows.probabilities], axis=1)
    lows, highs = percentile_interval(resample_means(values, rows.groups, repeats=200, seed=3))
    for column, low, high in zip(values.T, lows, highs, strict=True):
        slow = group_interval(
            lambda drawn, column=column: float(column[drawn].mean()), rows.groups, repeats=200, seed=3
        )
        assert (low, high) == pytest.approx(slow, abs=1e-9)


def test_resamples_with_one_class_are_drawn_again() -> None:
    labels, groups = np.array([True, False, False]), np.array(["a", "b", "c"])
    weights = np.concatenate(list(resample_groups(labels, groups, repeats=50)))
    assert weights.shape == (50, 3)
    assert (weights[:, 0] > 0).all()
    assert (weights[:, 1:].sum(axis=1) > 0).all()


def test_data_without_a_resample_of_both_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="too few resamples"):
        list(resample_groups(np.ones(3, np.bool_), np.arange(3), repeats=5))


def test_95_percent_of_intervals_cover_the_true_value_although_images_of_a_group_are_alike() -> None:
    truth = WeightedMetrics(*_labels_and_scores(10**6, groups=20_000), []).compute(np.ones((1, 80_000), np.int32))[0, 0]
    covered = 0
    for seed in range(100):
        rows = predicted(seed, decimals=9)
        draws = resample_groups(rows.labels, rows.groups, repeats=200, seed=seed)
        metrics = WeightedMetrics(rows.labels, rows.probabilities, [])
        lows, highs = percentile_interval(np.concatenate([metrics.compute(w) for w in draws]))
        covered += lows[0] <= truth <= highs[0]
    assert 88 <= covered <= 100


def _labels_and_scores(seed: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    rows = predicted(seed, groups=groups, decimals=9)
    return rows.labels, rows.probabilities
