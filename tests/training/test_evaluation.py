"""Evaluation: images, studies and body parts, each measured on its own rows; and thresholds for an aim."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.training.predicted import of, predicted
from training.evaluate.evaluation import Evaluation, Population, evaluate
from training.evaluate.held_out import Aim, card_metrics
from training.evaluate.predictions import Predictions
from xray.errors import UsageError
from xray.network.card import Threshold

HALF = [Threshold(0.5, "for the test")]


def measured(rows: Predictions, **options: object) -> Evaluation:
    return evaluate(rows, HALF, HALF, repeats=100, **options)  # type: ignore[arg-type]


def assert_as_scikit_learn(found: Population, labels: np.ndarray, scores: np.ndarray) -> None:
    at, called = found.at[0], scores >= 0.5
    assert (found.n, found.positives) == (len(labels), labels.sum())
    expected = {
        "auroc": sklearn_metrics.roc_auc_score(labels, scores),
        "average_precision": sklearn_metrics.average_precision_score(labels, scores),
        "sensitivity": sklearn_metrics.recall_score(labels, called),
        "specificity": sklearn_metrics.recall_score(~labels, ~called),
        "accuracy": sklearn_metrics.accuracy_score(labels, called),
        "kappa": sklearn_metrics.cohen_kappa_score(labels, called),
    }
    for name, value in expected.items():
        estimate = getattr(found if hasattr(found, name) else at, name)
        assert estimate.value == pytest.approx(value, abs=1e-9)
        assert estimate.low < estimate.value < estimate.high
    counts = [[at.true_negatives, at.false_positives], [at.false_negatives, at.true_positives]]
    assert counts == sklearn_metrics.confusion_matrix(labels, called).tolist()


def test_images_are_measured_as_scikit_learn_measures_them() -> None:
    rows = predicted()
    assert_as_scikit_learn(measured(rows).images.populations[0], rows.labels, rows.probabilities)


def test_studies_are_measured_by_their_mean_probability_and_not_as_images() -> None:
    rows = predicted(study_size=4)
    scores = rows.probabilities.reshape(-1, 4).mean(axis=1)
    labels = rows.labels.reshape(-1, 4).any(axis=1)
    found = measured(rows)
    # studies come in the order of their keys
    order = np.argsort([f"study{i}" for i in range(len(scores))])
    assert_as_scikit_learn(found.studies.populations[0], labels[order], scores[order])
    by_image, by_study = (level.populations[0].at[0].kappa for level in (found.images, found.studies))
    assert by_image is not None
    assert by_study is not None
    assert abs(by_study.value - by_image.value) > 0.01


def test_studies_of_one_image_each_are_measured_once_and_that_is_said() -> None:
    found = measured(predicted(study_size=1))
    assert found.one_image_a_study
    assert found.studies.populations == found.images.populations
    assert not measured(predicted()).one_image_a_study


def test_each_body_part_is_measured_on_its_own_images_and_the_upper_limb_together() -> None:
    rows = predicted()
    found = {population.name: population for population in measured(rows).images.populations}
    assert list(found) == ["all", "upper limb", "HAND", "LEG", "WRIST"]
    for name, keep in {
        "LEG": rows.body_parts == "LEG",
        "upper limb": np.isin(rows.body_parts, ["HAND", "WRIST"]),
    }.items():
        assert_as_scikit_learn(found[name], rows.labels[keep], rows.probabilities[keep])


def test_a_body_part_of_one_class_says_so_in_place_of_a_number() -> None:
    rows = predicted()
    rows = dataclasses.replace(rows, labels=rows.labels & (rows.body_parts != "LEG"))
    leg = next(p for p in measured(rows).images.populations if p.name == "LEG")
    assert (leg.auroc, leg.at[0].sensitivity, leg.lacks) == (None, None, "all are negative: both classes are needed")
    assert leg.at[0].true_negatives + leg.at[0].false_positives == leg.n


def test_few_groups_have_values_and_no_intervals() -> None:
    (found, *_) = measured(predicted(groups=4)).images.populations
    assert found.auroc is not None
    assert (found.auroc.low, found.auroc.high) == (None, None)
    assert found.lacks is not None
    assert "no intervals" in found.lacks


def test_what_no_resample_can_change_has_no_interval() -> None:
    labels = np.arange(40) % 2 == 0
    (found, *_) = measured(of(np.where(labels, 3.0, -3.0), labels)).images.populations
    assert found.auroc is not None
    assert (found.auroc.value, found.auroc.low) == (1.0, None)


def test_a_body_part_that_the_model_does_not_know_is_measured_apart_and_has_no_say_in_its_study() -> None:
    rows = predicted(groups=90)
    # every second image, and so one of each study's two
    parts = np.where(np.arange(len(rows)) % 2, "TOE", rows.body_parts)
    rows = dataclasses.replace(rows, body_parts=parts)
    found = measured(rows, scope=["HAND", "LEG", "WRIST"])
    inside = rows.select(parts != "TOE")
    (toe,) = found.out_of_scope
    assert (toe.name, toe.n) == ("TOE", 180)
    assert found.images.populations[0].n == found.studies.populations[0].n == 180
    assert found.studies.populations[0].positives == inside.labels.sum()
    assert found.images.populations == measured(inside).images.populations


def test_images_of_an_unknown_body_part_are_in_scope() -> None:
    rows = predicted()
    unknown = dataclasses.replace(rows, body_parts=np.where(rows.body_parts == "LEG", "", rows.body_parts))
    found = measured(unknown, scope=["HAND", "WRIST"])
    assert found.out_of_scope == ()
    assert [p.name for p in found.images.populations] == ["all", "upper limb", "unknown body part", "HAND", "WRIST"]


def test_an_evaluation_is_plain_json_and_the_same_for_the_same_seed() -> None:
    texts = [json.dumps(dataclasses.asdict(measured(predicted())), allow_nan=False) for _ in range(2)]
    assert texts[0] == texts[1]


def test_a_cards_metrics_say_on_what_they_were_measured() -> None:
    found = card_metrics(measured(predicted()), [Aim()], "FracAtlas", "out of fold")
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


def test_a_card_has_no_studies_where_they_are_single_images() -> None:
    found = card_metrics(measured(predicted(study_size=1)), [Aim()], "FracAtlas", "out of fold")
    assert [metric for metric in found if "studies" in metric.population] == []


def test_a_perfect_number_is_on_the_card_though_it_has_no_interval() -> None:
    labels = np.arange(40) % 2 == 0
    found = card_metrics(measured(of(np.where(labels, 3.0, -3.0), labels)), [Aim()], "FracAtlas", "out of fold")
    assert [(metric.name, metric.value, metric.interval) for metric in found[:2]] == [
        ("AUROC", 1.0, "no interval"),
        ("average precision", 1.0, "no interval"),
    ]


def test_a_cards_rates_name_the_aim_of_their_threshold_and_two_aims_with_one_threshold_share_them() -> None:
    rows = predicted()
    aims = [Aim.parse(aim) for aim in ("youden", "sensitivity:0.95")]
    thresholds = [aim.choose(rows, "these films") for aim in aims]
    apart = card_metrics(evaluate(rows, thresholds, thresholds, repeats=10), aims, "FracAtlas", "out of fold")
    names = {metric.name for metric in apart}
    assert f"kappa at {thresholds[0].value:.3f} (Youden)" in names
    assert f"kappa at {thresholds[1].value:.3f} (sensitivity 0.95)" in names
    same = [dataclasses.replace(threshold, value=0.5) for threshold in thresholds]
    together = card_metrics(evaluate(rows, same, same, repeats=10), aims, "FracAtlas", "out of fold")
    accuracies = [m.name for m in together if m.name.startswith("accuracy") and ", images (" in m.population]
    assert accuracies == ["accuracy at 0.500 (Youden, sensitivity 0.95)"]


def test_an_aim_chooses_a_threshold_on_images_and_another_on_studies() -> None:
    rows = predicted(study_size=4)
    aim = Aim.parse("sensitivity:0.95")
    for level in (rows, rows.by_study()):
        threshold = aim.choose(level, "these films")
        assert (level.probabilities[level.labels] >= threshold.value).mean() >= 0.95
        assert (level.probabilities[level.labels] > threshold.value).mean() < 0.95
        assert threshold.chosen == "a sensitivity of at least 0.95, chosen on these films"
    youden = Aim.parse("youden").choose(rows, "these films").value
    fpr, tpr, _ = sklearn_metrics.roc_curve(rows.labels, rows.probabilities)
    called = rows.probabilities >= youden
    assert called[rows.labels].mean() - called[~rows.labels].mean() == pytest.approx((tpr - fpr).max(), abs=1e-9)


@pytest.mark.parametrize("text", ["", "best", "sensitivity", "sensitivity:", "sensitivity:0", "sensitivity:1.1", "sensitivity:nan", "youden:1"])  # fmt: skip  # noqa: E501
def test_an_aim_that_means_nothing_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"'youden', or 'sensitivity:0\.95'"):
        Aim.parse(text)


def test_no_threshold_is_chosen_on_one_class() -> None:
    with pytest.raises(UsageError, match="these films: metrics need both classes"):
        Aim.parse("youden").choose(of(np.arange(3.0), np.ones(3, np.bool_)), "these films")
