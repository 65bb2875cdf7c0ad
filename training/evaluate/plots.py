"""Plots of an evaluation: ROC curve, precision-recall curve, confusion matrix, reliability diagram."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from training.evaluate.evaluation import Level
from training.evaluate.population import AtThreshold, Estimate
from training.evaluate.predictions import Predictions
from training.report_page import BLUE, GRAY, LIGHT_BLUE, ORANGE, in_report_style

SIDE = 4.6
"""Of a square figure, inches."""

MARKERS = "os"
"""Of the card's threshold, and of one chosen on the data."""


@dataclass(frozen=True)
class PlotData:
    """What is drawn of one level.

    Attributes
    ----------
    rows : Predictions
        Images or studies, of both classes.
    level : Level
        Their evaluation.
    """

    rows: Predictions
    level: Level


@in_report_style
def roc_figure(data: PlotData) -> Figure:
    """Draw the ROC curve, with a point and its intervals for each threshold."""
    figure, axes = _square_figure("1 - specificity", "sensitivity")
    population = data.level.populations[0]
    false_positive_rate, sensitivity, _ = roc_curve(data.rows.labels, data.rows.probabilities)
    _diagonal(axes, "chance")
    axes.plot(false_positive_rate, sensitivity, color=BLUE, label=f"AUROC {_with_interval(population.auroc)}")
    for at, marker in zip(population.at, MARKERS, strict=False):
        _roc_point(axes, at, marker)
    axes.legend(loc="lower right")
    return figure


@in_report_style
def precision_recall_figure(data: PlotData) -> Figure:
    """Draw precision by recall, with a point for each threshold, and the precision of flagging everything."""
    figure, axes = _square_figure("recall (sensitivity)", "precision (positive predictive value)")
    population = data.level.populations[0]
    precision, recall, _ = precision_recall_curve(data.rows.labels, data.rows.probabilities)
    label = f"average precision {_with_interval(population.average_precision)}"
    axes.plot(recall, precision, color=BLUE, drawstyle="steps-post", label=label)
    for at, marker in zip(population.at, MARKERS, strict=False):
        flagged = at.true_positives + at.false_positives
        if flagged and at.sensitivity:
            axes.plot(
                at.sensitivity.value, at.true_positives / flagged, marker, color=BLUE, markersize=8,
                markeredgecolor="white", label=f"at threshold {at.threshold:.3f}",
            )  # fmt: skip
    prevalence = population.positives / population.n
    axes.axhline(prevalence, color=GRAY, linestyle=":", linewidth=1, label=f"prevalence {prevalence:.3f}")
    axes.legend(loc="best")
    return figure


@in_report_style
def confusion_figure(at: AtThreshold, finding: str) -> Figure:
    """Draw the confusion matrix at a threshold, shaded by the share of each human label."""
    counts = np.array([[at.true_positives, at.false_negatives], [at.false_positives, at.true_negatives]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _square_figure(f"model, at threshold {at.threshold:.3f}", f"human label ({finding})")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xlim(-0.5, 1.5)
    axes.set_ylim(1.5, -0.5)
    axes.grid(visible=False)
    axes.set_xticks([0, 1], ["positive", "negative"])
    axes.set_yticks([0, 1], ["positive", "negative"], rotation=90, va="center")
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{count:,}\n{share:.1%} of the row"
        axes.text(column, row, text, ha="center", va="center", fontsize=12, color="white" if share > 0.5 else "black")
    return figure


@in_report_style
def reliability_figure(data: PlotData) -> Figure:
    """Draw the share of positives by probability, and below it a histogram of the probabilities."""
    figure = Figure(figsize=(SIDE, SIDE))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _diagonal(above, "probability = share")
    bins, rows = data.level.calibration.bins, data.rows
    middle, share = np.array([b.probability for b in bins]), np.array([b.positive for b in bins])
    ends = np.array([[b.positive - b.low for b in bins], [b.high - b.positive for b in bins]]).clip(0)
    label = f"{len(bins)} equal-count bins, 95 % intervals"
    above.errorbar(middle, share, yerr=ends, fmt="o-", color=BLUE, markersize=4, linewidth=1, label=label)
    above.set(ylabel="share that is positive", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    above.legend(loc="upper left")
    classes = [rows.probabilities[~rows.labels], rows.probabilities[rows.labels]]
    below.hist(
        classes, bins=np.linspace(0, 1, 26).tolist(), stacked=True, color=[LIGHT_BLUE, ORANGE],
        label=["human label negative", "positive"],
    )  # fmt: skip
    below.set(xlabel="probability", ylabel="count")
    below.legend(loc="upper right", fontsize=7)
    return figure


def _square_figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(SIDE, SIDE))
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)
    return figure, axes


def _diagonal(axes: Axes, label: str) -> None:
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1, label=label)


def _roc_point(axes: Axes, at: AtThreshold, marker: str) -> None:
    if at.sensitivity is None or at.specificity is None:
        return
    across, up = _error_bar(at.specificity)[::-1], _error_bar(at.sensitivity)
    axes.errorbar(
        1 - at.specificity.value, at.sensitivity.value, xerr=across, yerr=up, fmt=marker, color=BLUE, capsize=3,
        markeredgecolor="white", markersize=8, elinewidth=1.2, label=f"at threshold {at.threshold:.3f}, 95 % intervals",
    )  # fmt: skip


def _error_bar(estimate: Estimate) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the lengths of an interval below and above its estimate, ``(2, 1)``; zero where there is none."""
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    return np.array([[max(0.0, estimate.value - low)], [max(0.0, high - estimate.value)]])


def _with_interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.value:.3f}" if estimate.low is None else f"{estimate.value:.3f} ({estimate.interval})"
