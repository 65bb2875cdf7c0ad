"""Thresholds chosen for an aim."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.training.evaluate.predicted import of, predicted
from training.evaluate.thresholds import ThresholdAim, describe_too_few
from xray.errors import UsageError


def test_an_aim_chooses_a_threshold_on_images_and_another_on_studies() -> None:
    rows = predicted(groups=300, study_size=4)
    aim = ThresholdAim.parse("sensitivity:0.95")
    for level in (rows, rows.by_study()):
        threshold = aim.choose_threshold(level, "these images")
        assert (level.probabilities[level.labels] >= threshold.value).mean() >= 0.95
        assert (level.probabilities[level.labels] > threshold.value).mean() < 0.95
        assert threshold.chosen == "a sensitivity of at least 0.95, chosen on these images"
    youden = ThresholdAim.parse("youden").choose_threshold(rows, "these images").value
    fpr, tpr, _ = sklearn_metrics.roc_curve(rows.labels, rows.probabilities)
    flagged = rows.probabilities >= youden
    assert flagged[rows.labels].mean() - flagged[~rows.labels].mean() == pytest.approx((tpr - fpr).max(), abs=1e-9)


@pytest.mark.parametrize("text", ["", "best", "sensitivity", "sensitivity:", "sensitivity:0", "sensitivity:1.1", "sensitivity:nan", "youden:1"])  # fmt: skip  # noqa: E501
def test_an_unknown_aim_is_refused_with_a_list_of_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match=r"'youden', or 'sensitivity:0\.95'"):
        ThresholdAim.parse(text)


def test_no_threshold_is_chosen_on_one_class_alone() -> None:
    with pytest.raises(UsageError, match="these images: metrics need both classes"):
        ThresholdAim.parse("youden").choose_threshold(of(np.arange(3.0), np.ones(3, np.bool_)), "these images")


@pytest.mark.parametrize(
    ("positives", "negatives", "group_size", "few"),
    [
        (20, 20, 4, None),
        (19, 50, 1, "19 positive in 19 groups, where 20 in 5 groups are needed"),
        (50, 16, 4, "16 negative in 4 groups, where 20 in 5 groups are needed"),
        (40, 40, 10, "40 positive in 4 groups and 40 negative in 4 groups, where 20 in 5 groups are needed"),
        (1, 40, 8, "1 positive in 1 group, where 20 in 5 groups are needed"),
    ],
)
def test_a_threshold_chosen_on_too_few_images_or_groups_says_so(
    positives: int, negatives: int, group_size: int, few: str | None
) -> None:
    labels = np.arange(positives + negatives) < positives
    place = np.where(labels, np.arange(len(labels)), np.arange(len(labels)) - positives)
    groups = np.char.add(np.where(labels, "p", "n"), (place // group_size).astype(str))
    assert describe_too_few(labels, groups) == few
    threshold = ThresholdAim().choose_threshold(of(np.where(labels, 1.0, -1.0), labels, groups), "these images")
    assert threshold.chosen.partition("these images")[2] == (f", too few to rely on: {few}" if few else "")
