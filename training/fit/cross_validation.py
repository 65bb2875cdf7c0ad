"""Stratified cross-validation with whole groups."""

from pathlib import Path

import numpy as np

from training.data.split import assign_folds
from training.evaluate.metrics import auroc
from training.evaluate.predictions import NetworkOutputs
from training.fit.inputs import TrainingInputs
from training.fit.learner import Learner
from training.fit.stages import TrainingIndices, fit, predict
from training.progress import Progress


def cross_validate(
    learner: Learner, inputs: TrainingInputs, folder: Path, fingerprint: str, progress: Progress
) -> NetworkOutputs:
    """For each fold, train on all other folds and predict the fold.

    A fold's images decide nothing in its training, not even when it stops.

    Parameters
    ----------
    learner : Learner
        The network; it is reset before each fold.
    inputs : TrainingInputs
        Inputs and labels of N images.
    folder : Path
        Gets a folder per fold, with which an interrupted run continues.
    fingerprint : str
        Hash of everything that decides the outcome.
    progress : Progress
        Shows a line per epoch and fold.

    Returns
    -------
    NetworkOutputs
        Out-of-fold outputs for each of the N images.
    """
    recipe, dataset = learner.recipe, inputs.dataset
    folds = assign_folds(dataset.labels, dataset.groups, recipe.folds, recipe.seed)
    logits, maxima = np.empty(len(dataset)), np.empty(len(dataset))
    for fold in range(recipe.folds):
        name = f"fold {fold + 1}/{recipe.folds}"
        train, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        progress.say(f"{name}: {len(train):,} training images, {len(held_out):,} held-out images")
        learner.reset()
        fit(learner, inputs, TrainingIndices(train), folder / f"fold{fold + 1}", f"{fingerprint} {fold}", progress)
        outputs = predict(learner, inputs, held_out)
        logits[held_out], maxima[held_out] = outputs.logits, outputs.cam_maxima
        progress.say(f"{name}: AUROC {auroc(dataset.labels[held_out], outputs.logits):.4f}")
    return NetworkOutputs(logits, maxima)
