"""``python -m benchmarks.compare_predictions ONE OTHER``: two trainings' held-out predictions of the same images.

Each is a ``predictions.csv`` that ``bonescreen train`` has written. Prints, of all images, the upper limb and each body
part, both AUROCs and their difference, and of all images the sensitivity at each one's own Youden threshold, and where
each has a specificity of 0.90. Intervals are of paired resamples of whole groups, as of
``bonescreen evaluate --against``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import UPPER_LIMB
from training.evaluate.baseline import Difference, align, compare
from training.evaluate.metrics import youden_threshold
from training.evaluate.predictions import Predictions
from xray.errors import UsageError

SPECIFICITY = 0.90


def specificity_threshold(rows: Predictions) -> float:
    """Return the least threshold at which at least `SPECIFICITY` of the negative images are below it."""
    negatives = np.sort(rows.probabilities[~rows.labels])
    return float(np.nextafter(negatives[int(np.ceil(SPECIFICITY * len(negatives))) - 1], np.inf))


def populations(rows: Predictions) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield name and mask of all images, of the upper limb and of each body part."""
    yield "all images", np.ones(len(rows), bool)
    yield "upper limb", np.isin(rows.body_parts, list(UPPER_LIMB))
    for part in sorted(set(rows.body_parts.tolist())):
        yield part.lower(), rows.body_parts == part


def line(name: str, found: Difference) -> str:
    """Return a row of the table."""
    return (
        f"| {name} | {found.first:.3f} | {found.second:.3f} | {found.difference:+.3f} [{found.interval}] | "
        f"{found.p:.3f} |"
    )


def main(first: Path, second: Path) -> None:
    """Print the table."""
    one = Predictions.read(first)
    other = align(one, Predictions.read(second))
    print("| | first | second | difference | p |\n|---|---|---|---|---|")
    for name, keep in populations(one):
        of = f"{name} (n={int(keep.sum())}, positive {int(one.labels[keep].sum())})"
        try:
            print(line(f"AUROC, {of}", compare(one.select(keep), other.select(keep), None)[0]))
        except UsageError as error:
            print(f"| AUROC, {of} | | | {error} | |")
    for at, thresholds in (
        (
            "Youden's threshold",
            (youden_threshold(one.labels, one.probabilities), youden_threshold(other.labels, other.probabilities)),
        ),
        (f"a specificity of {SPECIFICITY:.2f}", (specificity_threshold(one), specificity_threshold(other))),
    ):
        for found in compare(one, other, thresholds):
            if found.measure in ("sensitivity", "specificity"):
                print(line(f"{found.measure} at {at}", found))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.compare_predictions ONE OTHER")
    main(*map(Path, sys.argv[1:]))
