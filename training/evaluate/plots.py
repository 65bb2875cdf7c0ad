"""An evaluation's pictures: ROC, precision and recall, confusion, reliability.

Figures are objects of their own, without pyplot's state, in colours that colour-blind readers tell apart (Okabe and Ito
2008) and that differ in gray print.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from training.evaluate.evaluation import AtThreshold, Estimate, Level
from training.evaluate.predictions import Predictions

BLUE, ORANGE = "#0072B2", "#D55E00"
LIGHT = "#56B4E9"
GRAY = "#6b6b6b"
DPI = 160
MARKERS = "os"
"""Of the card's threshold, and of one chosen here."""


@dataclass(frozen=True)
class Curve:
    """What a model says of one level's rows.

    Attributes
    ----------
    rows : Predictions
        Both classes.
    level : Level
        What was measured on them.
    """

    rows: Predictions
    level: Level


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def roc_figure(curve: Curve) -> Figure:
    """Draw the ROC curve with each threshold's point and its intervals."""
    figure, axes = _square("1 - specificity", "sensitivity")
    everyone = curve.level.populations[0]
    false, true, _ = roc_curve(curve.rows.labels, curve.rows.probabilities)
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1, label="chance")
    axes.plot(false, true, color=BLUE, label=f"AUROC {estimate_text(everyone.auroc)}")
    for at, marker in zip(everyone.at, MARKERS, strict=False):
        _point(axes, at, marker)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    return figure


def precision_recall_figure(curve: Curve) -> Figure:
    """Draw precision by recall, and the precision of calling everything positive."""
    figure, axes = _square("recall (sensitivity)", "precision (positive predictive value)")
    everyone = curve.level.populations[0]
    precision, recall, _ = precision_recall_curve(curve.rows.labels, curve.rows.probabilities)
    label = f"average precision {estimate_text(everyone.average_precision)}"
    axes.plot(recall, precision, color=BLUE, drawstyle="steps-post", label=label)
    for at, marker in zip(everyone.at, MARKERS, strict=False):
        called = at.true_positives + at.false_positives
        if called and at.sensitivity:
            axes.plot(
                at.sensitivity.value, at.true_positives / called, marker, color=BLUE, markersize=8,
                markeredgecolor="white", label=f"at threshold {at.threshold:.3f}",
            )  # fmt: skip
    prevalence = everyone.positives / everyone.n
    axes.axhline(prevalence, color=GRAY, linestyle=":", linewidth=1, label=f"prevalence {prevalence:.3f}")
    axes.legend(loc="best", fontsize=8, frameon=False)
    return figure


def confusion_figure(at: AtThreshold, finding: str) -> Figure:
    """Draw the four counts at a threshold, shaded by their share of the human label's row."""
    counts = np.array([[at.true_positives, at.false_negatives], [at.false_positives, at.true_negatives]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _square(f"the model, at {at.threshold:.3f}", f"human label ({finding})")
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


def reliability_figure(curve: Curve) -> Figure:
    """Draw the share of positives by probability, and below it how many rows there are of each probability."""
    figure = Figure(figsize=(4.6, 4.6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1, label="probability = share")
    bins, rows = curve.level.agreement.bins, curve.rows
    middle, share = np.array([b.probability for b in bins]), np.array([b.positive for b in bins])
    ends = np.array([[b.positive - b.low for b in bins], [b.high - b.positive for b in bins]]).clip(0)
    label = f"{len(bins)} bins of equal mass, 95 % intervals"
    above.errorbar(middle, share, yerr=ends, fmt="o-", color=BLUE, markersize=4, linewidth=1, label=label)
    above.set(ylabel="share that is positive", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    above.legend(loc="upper left", fontsize=8, frameon=False)
    classes = [rows.probabilities[~rows.labels], rows.probabilities[rows.labels]]
    below.hist(
        classes, bins=np.linspace(0, 1, 26).tolist(), stacked=True, color=[LIGHT, ORANGE],
        label=["human label negative", "positive"],
    )  # fmt: skip
    below.set(xlabel="probability", ylabel="count")
    below.legend(loc="upper right", fontsize=7, frameon=False)
    for axes in (above, below):
        _plain(axes)
    return figure


def _square(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 4.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    # a finding may hold dollar signs
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def _point(axes: Axes, at: AtThreshold, marker: str) -> None:
    if at.sensitivity is None or at.specificity is None:
        return
    across, up = _whiskers(at.specificity)[::-1], _whiskers(at.sensitivity)
    axes.errorbar(
        1 - at.specificity.value, at.sensitivity.value, xerr=across, yerr=up, fmt=marker, color=BLUE, capsize=3,
        markeredgecolor="white", markersize=8, elinewidth=1.2, label=f"at threshold {at.threshold:.3f}, 95 % intervals",
    )  # fmt: skip


def _whiskers(estimate: Estimate) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return how far an interval goes down and up, ``(2, 1)``; nowhere where there is none."""
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    return np.array([[max(0.0, estimate.value - low)], [max(0.0, high - estimate.value)]])


def estimate_text(estimate: Estimate | None) -> str:
    """Write a number with its interval, in one line."""
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
