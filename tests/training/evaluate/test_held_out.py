"""What a card gets from held-out images: metrics and the heat-map scale."""

import dataclasses
from pathlib import Path

import numpy as np

from tests.training.evaluate.predicted import of, predicted
from training.data.dataset import OWN_DATA, Dataset, Example
from training.evaluate.evaluation import Evaluation, evaluate
from training.evaluate.held_out import HeldOutSet, card_metrics, evaluate_model, heat_map_scale
from training.evaluate.predictions import NetworkOutputs, Predictions
from training.evaluate.thresholds import ThresholdAim
from xray.images.preprocessing import Preprocessing
from xray.network.card import Threshold

SQUARE = Preprocessing(8, "squash")

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


def test_half_of_the_positive_images_exceed_the_heat_map_scale() -> None:
    maxima, labels = np.arange(200.0), np.arange(200) >= 100
    assert (maxima[labels] > heat_map_scale(maxima, labels)).sum() == 50


def held_out(rows: Predictions, how: str, *, sign: int = 1) -> HeldOutSet:
    """Return a held-out set of these rows; with sign -1, its logits contradict the labels."""
    table = zip(rows.images, rows.studies, rows.groups, rows.labels.tolist(), strict=True)
    examples = tuple(Example(str(i), str(s), str(g), label, "HAND") for i, s, g, label in table)
    ones = np.ones(len(rows))
    outputs = NetworkOutputs(sign * rows.logits, ones, np.ones((len(rows), 2, 2), np.float16), ones)
    return HeldOutSet(Dataset(Path(), OWN_DATA, "fracture", examples), outputs, how)


def test_a_model_whose_logits_contradict_the_labels_keeps_its_ranking_and_warns() -> None:
    test = held_out(predicted(seed=1), "test part")
    found = evaluate_model(held_out(predicted(), "validation part", sign=-1), test, SQUARE, 4)
    area = found.evaluation.images.populations[0].auroc
    assert area is not None
    by_logit = evaluate(
        dataclasses.replace(predicted(seed=1), probabilities=test.outputs.logits), HALF, HALF, repeats=10
    ).images.populations[0].auroc  # fmt: skip
    assert by_logit is not None
    assert area.value == by_logit.value > 0.7
    (warning,) = found.warnings
    assert warning.startswith("The scores may mean nothing: on 240 images of own data, validation part, a higher logit")
    assert "(AUROC 0.2" in warning
    assert "the least allowed, 0.01" in warning


def test_too_few_images_to_choose_on_are_named_in_a_warning_and_in_the_thresholds() -> None:
    test = held_out(predicted(seed=1), "test part")
    assert evaluate_model(held_out(predicted(), "validation part"), test, SQUARE, 4).warnings == ()
    few = held_out(predicted(groups=8), "validation part")
    found = evaluate_model(few, test, SQUARE, 4)
    positives = few.dataset.labels.sum()
    (warning,) = found.warnings
    assert warning.startswith(f"Too few images to choose calibration and thresholds on: {positives} positive in ")
    for threshold in (found.image_threshold, found.study_threshold):
        assert ", validation part, too few to rely on: " in threshold.chosen
