"""Grouped, stratified cross-validation: what a recipe does to films whose groups it has not seen."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.split import assign_folds
from training.evaluate.metrics import auroc
from training.evaluate.predictions import NetworkOutputs
from training.fit.features import BATCH
from training.fit.inputs import TrainingInputs
from training.fit.learner import Learner
from training.fit.stages import TrainingIndices, fit
from training.progress import Progress
from xray.network.engine import padded_batches
from xray.network.keras_engine import compile_forward


def cross_validate(
    learner: Learner, material: TrainingInputs, folder: Path, fingerprint: str, progress: Progress
) -> NetworkOutputs:
    """Learn from all folds but one, look at that one, and so on for each.

    Nothing is chosen on a fold: its films decide neither epochs nor anything else.

    Parameters
    ----------
    learner : Learner
        Forgets what it has learnt, before each fold.
    material : Material
        N films.
    folder : Path
        Holds a folder for each fold, from which an interrupted one goes on.
    fingerprint : str
        Of all that decides the outcome.
    progress : Progress
        Is told of every epoch.

    Returns
    -------
    Answers
        Of each of the N films, by the network that has not seen its group.
    """
    recipe, dataset = learner.recipe, material.dataset
    folds = assign_folds(dataset.labels, dataset.groups, recipe.folds, recipe.seed)
    logits, maxima = np.empty(len(dataset)), np.empty(len(dataset))
    for fold in range(recipe.folds):
        train, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        progress.say(f"fold {fold + 1}/{recipe.folds}: {len(train):,} images to learn from, {len(held_out):,} held out")
        learner.reset()
        fit(learner, material, TrainingIndices(train), folder / f"fold{fold + 1}", f"{fingerprint} {fold}", progress)
        found = predict(learner, material, held_out)
        logits[held_out], maxima[held_out] = found.logits, found.cam_maxima
        progress.say(f"fold {fold + 1}/{recipe.folds}: AUROC {auroc(dataset.labels[held_out], found.logits):.4f}")
    return NetworkOutputs(logits, maxima)


def predict(learner: Learner, material: TrainingInputs, films: NDArray[np.intp]) -> NetworkOutputs:
    """Ask the inference network, as it has learnt, of these n films."""
    forward = compile_forward(learner.explainer(), BATCH)
    features = material.at_rest(release=True)
    logits, maxima = np.empty(len(films)), np.empty(len(films))
    for place, batch in padded_batches(films, BATCH):
        found_logits, cams = forward(features[batch].astype(np.float32))
        count = place.stop - place.start
        logits[place], maxima[place] = found_logits[:count], cams[:count].max(axis=(1, 2))
    return NetworkOutputs(logits, maxima)
