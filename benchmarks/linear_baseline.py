"""``python -m benchmarks.linear_baseline FRACATLAS WEIGHTS OUT``: the recipe ``fracture`` against a linear baseline.

The baseline is logistic regression on pooled features of a frozen DenseNet-169 at 224 pixels, in the same folds. Its
penalty is the best of several on the reported predictions themselves, which favours the baseline. ``WEIGHTS`` are
DenseNet-169's of ImageNet; ``OUT`` is the ``--out`` of ``bonescreen train fracture``, with the other model's
``predictions.csv``.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.data.dataset import UPPER_LIMB
from training.data.images import load_images
from training.data.read_dataset import read_dataset
from training.data.split import assign_folds
from training.evaluate.baseline import align, compare
from training.evaluate.metrics import auroc
from training.evaluate.predictions import Predictions
from training.fit.inputs import TrainingInputs
from training.fit.learner import Learner
from training.progress import Progress
from training.recipes import Augmentation, Stage, find_recipe
from training.train import PREDICTIONS
from xray.images.preprocessing import Preprocessing
from xray.network.keras_engine import prepare_backend

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def out_of_fold(
    pooled: NDArray[np.float32], labels: NDArray[np.bool_], folds: NDArray[np.int64], c: float
) -> NDArray[np.float64]:
    """Return out-of-fold log odds, ``(N,)``, of a logistic regression."""
    logits = np.empty(len(labels))
    for fold in np.unique(folds):
        held_out = folds == fold
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))
        model.fit(pooled[~held_out], labels[~held_out])
        logits[held_out] = model.decision_function(pooled[held_out])
    return logits


def main(data: Path, weights: Path, out: Path) -> None:
    """Print AUROC of both models and their difference, for all images and for the upper limb."""
    prepare_backend()
    trained_recipe = find_recipe("fracture")
    listed = read_dataset(data)
    trained = Predictions.read(out / PREDICTIONS)
    for geometry in ("pad", "squash"):
        recipe = replace(
            trained_recipe,
            backbone="DenseNet169",
            input_size=224,
            geometry=geometry,
            pyramid=None,
            location_weight=0.0,
            stages=(Stage(trainable_layers=0, epochs=1, learning_rate=1e-3),),
            views=1,
            augmentation=Augmentation(),
        )
        dataset, images, _ = load_images(listed, Preprocessing(224, geometry), out / "cache", Progress())
        pooled = TrainingInputs(dataset, images, Learner(recipe, weights), out / "cache", Progress()).pooled
        folds = assign_folds(dataset.labels, dataset.groups, recipe.folds, recipe.seed)
        logits = {c: out_of_fold(pooled, dataset.labels, folds, c) for c in PENALTIES}
        best = max(logits, key=lambda c: auroc(dataset.labels, logits[c]))
        baseline = Predictions.of(dataset, logits[best], 1 / (1 + np.exp(-logits[best])))
        for name, keep in (
            ("all", np.ones(len(baseline), bool)),
            ("upper limb", np.isin(baseline.body_parts, list(UPPER_LIMB))),
        ):
            ours, theirs = align(baseline, trained).select(keep), baseline.select(keep)
            area = compare(ours, theirs, None)[0]
            interval = "" if area.low is None else f"[{area.low:+.4f}, {area.high:+.4f}]"
            print(
                f"{name}, {geometry}: {trained_recipe.name} {area.first:.4f}, baseline (C={best:g}) {area.second:.4f}, "
                f"difference {area.difference:+.4f} {interval}, p = {area.p:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m benchmarks.linear_baseline FRACATLAS WEIGHTS OUT")
    main(*map(Path, sys.argv[1:]))
