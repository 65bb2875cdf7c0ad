"""The report's diagrams, as SVG inside the page."""

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from training.doctor.balance import Share
from training.doctor.survey import Film

ACCENT, PALE, INK = "#1f5f8b", "#c9d8e3", "#222222"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "text.color": INK,
    "axes.labelcolor": INK,
    # the same page for the same data
    "svg.hashsalt": "bonescreen",
}


def plot_balance(shares: Sequence[Share]) -> str:
    """Draw positive and negative images of each row as a bar; returns a ``data:`` URI."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 0.7 + 0.32 * len(shares)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(shares))[::-1]
        positives = np.array([share.positives for share in shares])
        images = np.array([share.images for share in shares])
        axes.barh(places, positives, color=ACCENT, label="positive", height=0.68)
        axes.barh(places, images - positives, left=positives, color=PALE, label="negative", height=0.68)
        for place, share in zip(places, shares, strict=True):
            axes.annotate(f"{share.share:.0%}", (share.images, place), (4, 0), textcoords="offset points", va="center")
        # A body part's name comes from a file, and is no formula.
        axes.set_yticks(places, [share.name for share in shares], parse_math=False)
        axes.set_xlim(0, max(1, images.max(initial=1)) * 1.08)
        axes.set_xlabel("images (percentage: positive)")
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure)


def plot_sizes(films: Sequence[Film]) -> str:
    """Draw how wide and high films are, and their proportions; returns a ``data:`` URI."""
    width, height = (np.array([getattr(film, side) for film in films]) for side in ("width", "height"))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        sizes, proportions = figure.subplots(1, 2)
        top = 1.05 * max(int(width.max()), int(height.max()))
        blues = LinearSegmentedColormap.from_list("accent", [PALE, ACCENT, "#0b2438"])
        drawn = sizes.hist2d(width, height, bins=40, range=((0, top), (0, top)), cmin=1, cmap=blues, norm=LogNorm())
        figure.colorbar(drawn[3], ax=sizes, label="images", ticks=LogLocator(subs=(1.0,)), format="%g")
        sizes.set(xlabel="width, pixels", ylabel="height, pixels", aspect="equal")
        proportions.hist(width / height, bins=30, color=ACCENT)
        proportions.set(xlabel="width / height", ylabel="images")
        return _svg(figure)


def _svg(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{b64encode(file.getvalue()).decode()}"
