"""What a card gets from held-out images: metrics and the heat-map scale."""

import dataclasses

import numpy as np

from tests.training.evaluate.predicted import of, predicted
from training.evaluate.evaluation import Evaluation, evaluate
from training.evaluate.held_out import card_metrics, heat_map_scale
from training.evaluate.predictions import Predictions
from training.evaluate.thresholds import ThresholdAim
from xray.network.card import Threshold

HALF = [Threshold(0.5, "for the test")]


def measured(rows: Predictions) -> Evaluation:
    return evaluate(rows, HALF, HALF, repeats=100)


def test_the_metrics_of_a_card_name_the_images_they_were_measured_on() -> None:
    found = card_metrics(measured(predicted()), [ThresholdAim()], "FracAtlas", "out of fold")
    every = {(metric.name, metric.population) for metric in found}
    assert len(every) == len(found) == 2 * (2 * 6 + 3)
    rows = predicted()
    assert ("kappa at 0.500 (Youden)", f"FracAtlas, images (n=240, positive {rows.labels.sum()}), out of fold") in every
    upper = rows.select(rows.body_parts != "LEG")
    assert (
        "AUROC", f"FracAtlas, images of the upper limb (n={len(upper)}, positive {upper.labels.sum()}), out of fold"
    ) in every  # fmt: skip
    for metric in found:
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high


def test_a_card_has_no_metrics_of_studies_that_are_single_images() -> None:
    found = card_metrics(measured(predicted(study_size=1)), [ThresholdAim()], "FracAtlas", "out of fold")
    assert [metric for metric in found if "studies" in metric.population] == []


def test_a_perfect_metric_is_on_the_card_although_it_has_no_interval() -> None:
    labels = np.arange(40) % 2 == 0
    found = card_metrics(
        measured(of(np.where(labels, 3.0, -3.0), labels)), [ThresholdAim()], "FracAtlas", "out of fold"
    )
    assert [(metric.name, metric.value, metric.interval) for metric in found[:2]] == [
        ("AUROC", 1.0, "no interval"),
        ("average precision", 1.0, "no interval"),
    ]


def test_rates_on_a_card_name_the_aims_of_their_threshold() -> None:
    rows = predicted()
    aims = [ThresholdAim.parse(aim) for aim in ("youden", "sensitivity:0.95")]
    thresholds = [aim.choose_threshold(rows, "these images") for aim in aims]
    apart = card_metrics(evaluate(rows, thresholds, thresholds, repeats=10), aims, "FracAtlas", "out of fold")
    names = {metric.name for metric in apart}
    assert f"kappa at {thresholds[0].value:.3f} (Youden)" in names
    assert f"kappa at {thresholds[1].value:.3f} (sensitivity 0.95)" in names
    same = [dataclasses.replace(threshold, value=0.5) for threshold in thresholds]
    together = card_metrics(evaluate(rows, same, same, repeats=10), aims, "FracAtlas", "out of fold")
    accuracies = [m.name for m in together if m.name.startswith("accuracy") and ", images (" in m.population]
    assert accuracies == ["accuracy at 0.500 (Youden, sensitivity 0.95)"]


def test_few_positive_images_exceed_the_heat_map_scale() -> None:
    maxima, labels = np.arange(200.0), np.arange(200) >= 100
    assert (maxima[labels] > heat_map_scale(maxima, labels)).sum() == 5
