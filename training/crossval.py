"""Grouped, stratified cross-validation: what the recipe does to images whose groups it has not seen."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from training.features import Features
from training.fit import fit_head
from training.recipe import Recipe
from xray.cam import HeadWeights, head_forward
from xray.errors import UsageError


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold results: each image's come from a head that has seen no image of its group.

    Attributes
    ----------
    folds : ndarray of int64, (N,)
        The fold in which an image was held out.
    logits : ndarray of float64, (N,)
        Before calibration.
    heads : tuple of HeadWeights
        One for each fold.
    epochs : tuple of int
        Epochs that early stopping chose in each fold.
    """

    folds: NDArray[np.int64]
    logits: NDArray[np.float64]
    heads: tuple[HeadWeights, ...]
    epochs: tuple[int, ...]


def assign_folds(labels: NDArray[np.bool_], groups: NDArray[np.str_], folds: int, seed: int) -> NDArray[np.int64]:
    """Assign whole groups to folds, with classes as balanced as groups allow.

    Raises
    ------
    UsageError
        If there are fewer groups than folds, or a fold is left with one class.
    """
    if len(np.unique(groups)) < folds:
        raise UsageError(f"{len(np.unique(groups))} groups cannot be cut into {folds} folds")
    assigned = np.full(len(labels), -1, np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(groups, labels, groups)):
        assigned[held_out] = fold
        if len(np.unique(labels[held_out])) < 2:
            raise UsageError(f"the groups leave fold {fold} with one class only; use fewer folds")
    return assigned


def cross_validate(
    pooled: NDArray[np.float32], labels: NDArray[np.bool_], groups: NDArray[np.str_], recipe: Recipe
) -> CrossValidation:
    """Cross-validate a recipe's head on frozen features.

    In each fold the number of epochs is found on groups held out of the training part, then the head is fitted again
    to the whole training part; the fold's own images decide nothing.

    Parameters
    ----------
    pooled : ndarray of float32, (N, C)
        Pooled features.
    labels : ndarray of bool, (N,)
        Human labels.
    groups : ndarray of str, (N,)
        Near-duplicates share a group.
    recipe : Recipe
        What to do.
    """
    folds = assign_folds(labels, groups, recipe.folds, recipe.seed)
    logits = np.empty(len(labels))
    heads, epochs = [], []
    for fold in range(recipe.folds):
        held_out = folds == fold
        x, y = pooled[~held_out], labels[~held_out]
        inner = assign_folds(y, groups[~held_out], recipe.folds, recipe.seed) == 0
        _, best_epoch = fit_head(x[~inner], y[~inner], recipe, recipe.max_epochs, (x[inner], y[inner]))
        head, _ = fit_head(x, y, recipe, best_epoch)
        logits[held_out] = head_forward(pooled[held_out, None, None, :], head)[0]
        heads.append(head)
        epochs.append(best_epoch)
        print(f"fold {fold}: {held_out.sum()} images held out, {best_epoch} epochs", flush=True)
    return CrossValidation(folds, logits, tuple(heads), tuple(epochs))


def held_out_cam_maxima(features: Features, result: CrossValidation) -> NDArray[np.float64]:
    """Return the largest CAM value of each image, ``(N,)``, under the head that has not seen its group."""
    maxima = np.empty(len(result.folds))
    start = 0
    for maps in features.maps():
        place = slice(start, start + len(maps))
        for fold, head in enumerate(result.heads):
            mine = result.folds[place] == fold
            maxima[place][mine] = head_forward(maps[mine], head)[1].max(axis=(1, 2), initial=-np.inf)
        start = place.stop
    return maxima
