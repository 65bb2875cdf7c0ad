"""The fast bootstrap against the slow one and against scikit-learn's weighted metrics; and what its intervals hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from tests.training.evaluate.group_interval import group_interval
from tests.training.predicted import predicted
from training.evaluate.bootstrap import Ranked, draw_groups, interval
from training.evaluate.metrics import auroc, average_precision, rates


@st.composite
def weighted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Labels, scores with ties, weights with zeros, and a threshold that may lie beyond all scores."""
    size = draw(st.integers(2, 30))
    labels = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    scores = np.array(draw(st.lists(st.integers(0, 6), min_size=size, max_size=size))) / 6
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)), np.int32)
    labels[:2], weights[:2] = (True, False), np.maximum(weights[:2], 1)
    return labels, scores, weights, draw(st.sampled_from([-1.0, 0.0, 0.5, 0.6, 1.0, 2.0]))


@settings(max_examples=300, deadline=None)
@given(weighted())
def test_every_measure_agrees_with_scikit_learns_under_the_same_weights(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, float],
) -> None:
    labels, scores, weights, threshold = case
    called = scores >= threshold
    found = Ranked(labels, scores, [threshold]).measure(weights[None])[0]
    expected = [
        sklearn_metrics.roc_auc_score(labels, scores, sample_weight=weights),
        sklearn_metrics.average_precision_score(labels, scores, sample_weight=weights),
        sklearn_metrics.recall_score(labels, called, sample_weight=weights),
        sklearn_metrics.recall_score(~labels, ~called, sample_weight=weights),
        sklearn_metrics.accuracy_score(labels, called, sample_weight=weights),
        sklearn_metrics.cohen_kappa_score(labels, called, sample_weight=weights),
    ]
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_intervals_are_those_of_drawing_row_by_row() -> None:
    rows = predicted(groups=12)
    labels, scores = rows.labels, rows.probabilities
    draws = draw_groups(labels, rows.groups, repeats=200, seed=3)
    lows, highs = interval(np.concatenate([Ranked(labels, scores, [0.4, 0.6]).measure(w) for w in draws]))
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


def test_resamples_with_one_class_are_drawn_again() -> None:
    labels, groups = np.array([True, False, False]), np.array(["a", "b", "c"])
    weights = np.concatenate(list(draw_groups(labels, groups, repeats=50)))
    assert weights.shape == (50, 3)
    assert (weights[:, 0] > 0).all()
    assert (weights[:, 1:].sum(axis=1) > 0).all()


def test_classes_that_never_meet_in_a_resample_are_refused() -> None:
    with pytest.raises(ValueError, match="too few resamples"):
        list(draw_groups(np.ones(3, np.bool_), np.arange(3), repeats=5))


def test_the_intervals_hold_the_truth_about_as_often_as_they_say_though_images_of_a_group_are_alike() -> None:
    truth = Ranked(*_labels_and_scores(10**6, groups=20_000), []).measure(np.ones((1, 80_000), np.int32))[0, 0]
    held = 0
    for seed in range(100):
        rows = predicted(seed, decimals=9)
        draws = draw_groups(rows.labels, rows.groups, repeats=200, seed=seed)
        ranked = Ranked(rows.labels, rows.probabilities, [])
        lows, highs = interval(np.concatenate([ranked.measure(w) for w in draws]))
        held += lows[0] <= truth <= highs[0]
    assert 88 <= held <= 100


def _labels_and_scores(seed: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    rows = predicted(seed, groups=groups, decimals=9)
    return rows.labels, rows.probabilities
