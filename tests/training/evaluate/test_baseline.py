"""The paired comparison of two models on the same images."""

import dataclasses

import numpy as np
import pytest

from tests.training.evaluate.predicted import of, predicted
from training.evaluate.baseline import align, compare
from training.evaluate.predictions import Predictions
from xray.errors import UsageError


def noisier(rows: Predictions, noise: float, seed: int = 1) -> Predictions:
    added = np.random.default_rng(seed).normal(0, noise, len(rows))
    return dataclasses.replace(rows, probabilities=1 / (1 + np.exp(-rows.logits - added)))


def test_a_model_does_not_differ_from_itself() -> None:
    rows = predicted()
    for found in compare(rows, rows, (0.5, 0.5), repeats=100):
        assert (found.difference, found.low, found.high, found.p) == (0, None, None, 1)


def test_a_model_that_guesses_is_significantly_worse() -> None:
    rows = predicted()
    found = compare(rows, noisier(rows, 20), (0.5, 0.5), repeats=400)[0]
    assert found.measure == "auroc"
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.01
    assert found.difference == pytest.approx(found.first - found.second)


def test_exchanging_the_models_changes_the_sign_of_the_difference() -> None:
    rows = predicted()
    forward, backward = (
        compare(*pair, (0.5, 0.5), repeats=100) for pair in ((rows, noisier(rows, 1)), (noisier(rows, 1), rows))
    )
    for a, b in zip(forward, backward, strict=True):
        assert b.low is not None
        assert b.high is not None
        assert (a.difference, a.low, a.high, a.p) == pytest.approx((-b.difference, -b.high, -b.low, b.p))


def test_chance_alone_is_seldom_significant() -> None:
    found = [
        compare(noisier(rows, 1, seed), noisier(rows, 1, seed + 1000), None, repeats=200)[0].p < 0.05
        for seed, rows in ((seed, predicted(seed)) for seed in range(100))
    ]
    assert sum(found) <= 12


def test_without_thresholds_only_the_ranking_is_compared() -> None:
    rows = predicted()
    assert [found.measure for found in compare(rows, rows, None, repeats=10)] == ["auroc", "average_precision"]


def test_rates_are_at_each_models_own_threshold() -> None:
    rows = predicted()
    shifted = dataclasses.replace(rows, probabilities=rows.probabilities / 2)
    assert {found.difference for found in compare(rows, shifted, (0.5, 0.25), repeats=10)} == {0}


def test_predictions_are_put_in_the_same_order_before_they_are_compared() -> None:
    rows = predicted()
    reordered = rows.select(np.arange(len(rows))[::-1])
    assert (align(rows, reordered).images == rows.images).all()


def test_predictions_of_other_images_or_with_other_labels_are_refused() -> None:
    rows = predicted()
    with pytest.raises(UsageError, match="1 of 240 are missing from the second, which has 0 others"):
        align(rows, rows.select(np.arange(240) > 0))
    with pytest.raises(UsageError, match="label or study of 'image0'"):
        align(rows, dataclasses.replace(rows, labels=~rows.labels))


def test_models_are_not_compared_on_too_few_groups() -> None:
    rows = of(np.arange(8.0), np.arange(8) % 2 == 0)
    with pytest.raises(UsageError, match="too few groups"):
        compare(rows, rows, None)
