"""Charts of the check: how alike maps stay, and how the probability follows them."""

from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.seeing.check import Check
from training.seeing.randomise import Cascade

ACCENT, SECOND, GRID = "#1f5f8b", "#b5651d", "#d9d9d9"
DPI = 160


def draw_forgetting(cascade: Cascade) -> bytes:
    """Draw rank correlation and SSIM against the stages randomised, mean and range over draws; PNG."""
    figure = Figure((6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(cascade.stages) + 1)
    for name, values, ink in (
        ("rank correlation (Spearman)", cascade.rank_correlations, ACCENT),
        ("SSIM", cascade.similarities, SECOND),
    ):
        draws = np.pad(values.mean(axis=2), ((0, 0), (1, 0)), constant_values=1.0)
        axes.fill_between(places, draws.min(axis=0), draws.max(axis=0), color=ink, alpha=0.15, linewidth=0)
        axes.plot(places, draws.mean(axis=0), color=ink, marker="o", markersize=4, label=name)
    axes.axhline(0, color="#202020", linewidth=0.8)
    axes.set_xticks(places, ["as trained", *cascade.stages], fontsize=8)
    axes.set(xlabel="randomised down to, layers of this size included", ylabel="with the trained map", ylim=(-1, 1.05))
    _finish(axes)
    return _png(figure)


def draw_areas(check: Check) -> bytes:
    """Draw the mean deletion and insertion curves, and those of random orders; PNG."""
    figure = Figure((6.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title, own, chance in (
        (left, "deletion", [c.deletion for c in check.curves], [c.random_deletion for c in check.curves]),
        (right, "insertion", [c.insertion for c in check.curves], [c.random_insertion for c in check.curves]),
    ):
        shares = np.linspace(0, 1, 41)
        axes.plot(shares, _mean_curve(check, own, shares), color=ACCENT, label="in the map's order")
        average = [each.mean(axis=0) for each in chance]
        axes.plot(shares, _mean_curve(check, average, shares), color=SECOND, linestyle="--", label="in random order")
        axes.set(xlabel="share of the film", title=title, ylim=(0, 1))
        _finish(axes)
    left.set_ylabel("mean probability")
    return _png(figure)


def _mean_curve(check: Check, curves: list[NDArray[np.float64]], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average curves whose films have different numbers of cells."""
    sampled = [np.interp(shares, each.shares, curve) for each, curve in zip(check.curves, curves, strict=True)]
    return np.asarray(np.mean(sampled, axis=0), np.float64)


def _finish(axes: Axes) -> None:
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()
