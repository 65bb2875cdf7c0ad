"""Evaluation: images, studies and body parts, each measured on its own rows."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.training.evaluate.predicted import of, predicted
from training.evaluate.evaluation import Evaluation, evaluate
from training.evaluate.population import Population
from training.evaluate.predictions import Predictions
from xray.network.card import Threshold

HALF = [Threshold(0.5, "for the test")]


def measured(rows: Predictions, **options: object) -> Evaluation:
    return evaluate(rows, HALF, HALF, repeats=100, **options)  # type: ignore[arg-type]


def assert_as_scikit_learn(found: Population, labels: np.ndarray, scores: np.ndarray) -> None:
    at, flagged = found.at[0], scores >= 0.5
    assert (found.n, found.positives) == (len(labels), labels.sum())
    expected = {
        "auroc": sklearn_metrics.roc_auc_score(labels, scores),
        "average_precision": sklearn_metrics.average_precision_score(labels, scores),
        "sensitivity": sklearn_metrics.recall_score(labels, flagged),
        "specificity": sklearn_metrics.recall_score(~labels, ~flagged),
        "accuracy": sklearn_metrics.accuracy_score(labels, flagged),
        "kappa": sklearn_metrics.cohen_kappa_score(labels, flagged),
    }
    for name, value in expected.items():
        estimate = getattr(found if hasattr(found, name) else at, name)
        assert estimate.value == pytest.approx(value, abs=1e-9)
        assert estimate.low < estimate.value < estimate.high
    counts = [[at.true_negatives, at.false_positives], [at.false_negatives, at.true_positives]]
    assert counts == sklearn_metrics.confusion_matrix(labels, flagged).tolist()


def test_metrics_of_images_agree_with_scikit_learn() -> None:
    rows = predicted()
    assert_as_scikit_learn(measured(rows).images.populations[0], rows.labels, rows.probabilities)


def test_a_study_is_measured_by_the_mean_probability_of_its_images() -> None:
    rows = predicted(study_size=4)
    scores = rows.probabilities.reshape(-1, 4).mean(axis=1)
    labels = rows.labels.reshape(-1, 4).any(axis=1)
    found = measured(rows)
    # Studies are in the order of their keys.
    order = np.argsort([f"study{i}" for i in range(len(scores))])
    assert_as_scikit_learn(found.studies.populations[0], labels[order], scores[order])
    by_image, by_study = (level.populations[0].at[0].kappa for level in (found.images, found.studies))
    assert by_image is not None
    assert by_study is not None
    assert abs(by_study.value - by_image.value) > 0.01


def test_studies_of_one_image_each_are_measured_once_and_marked_so() -> None:
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


def test_a_body_part_of_one_class_has_no_metrics_and_gives_the_reason() -> None:
    rows = predicted()
    rows = dataclasses.replace(rows, labels=rows.labels & (rows.body_parts != "LEG"))
    leg = next(p for p in measured(rows).images.populations if p.name == "LEG")
    assert (leg.auroc, leg.at[0].sensitivity, leg.missing) == (None, None, "all are negative: both classes are needed")
    assert leg.at[0].true_negatives + leg.at[0].false_positives == leg.n


def test_a_population_of_few_groups_has_values_without_intervals() -> None:
    (found, *_) = measured(predicted(groups=4)).images.populations
    assert found.auroc is not None
    assert (found.auroc.low, found.auroc.high) == (None, None)
    assert found.missing is not None
    assert "no intervals" in found.missing


def test_a_metric_that_is_the_same_in_all_resamples_has_no_interval() -> None:
    labels = np.arange(40) % 2 == 0
    (found, *_) = measured(of(np.where(labels, 3.0, -3.0), labels)).images.populations
    assert found.auroc is not None
    assert (found.auroc.value, found.auroc.low) == (1.0, None)


def test_a_body_part_out_of_scope_is_measured_apart_and_does_not_count_in_its_study() -> None:
    rows = predicted(groups=90)
    # Every second image, and so one of each study's two.
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
