"""What a learner learns from: films with labels and weights, and what its layers are given for them in an epoch."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.fit.augment import augment
from training.fit.features import BATCH, trunk_features
from training.fit.learner import Learner
from training.progress import Progress
from xray.network.engine import padded_batches
from xray.network.keras_engine import compile_forward

LOADERS = 4
"""Threads that change films while the network learns from those before them."""


class TrainingInputs:
    """The films of a data set, as a learner's layers are given them.

    Parameters
    ----------
    dataset : Dataset
        N examples.
    images : ndarray of uint8, (N, size, size)
        Their preprocessed films.
    learner : Learner
        Its recipe says which views there are.
    cache : Path
        Folder for frozen features.
    progress : Progress
        Is told how far it is.

    Attributes
    ----------
    labels : ndarray of float32, (N,)
        1 for positive.
    weights : ndarray of float32, (N,)
        How much an image counts; see `weigh`.
    pooled : ndarray of float32, (N, C)
        Pooled features of the films as they are, before anything is learnt.
    """

    def __init__(
        self, dataset: Dataset, images: NDArray[np.uint8], learner: Learner, cache: Path, progress: Progress
    ) -> None:
        recipe = learner.recipe
        self.dataset = dataset
        self.labels = dataset.labels.astype(np.float32)
        self.weights = np.ones(len(dataset), np.float32)
        self._images, self._recipe = images, recipe
        # Films that are new each epoch are frozen nowhere, but what they are at rest is looked at again and again.
        views = max(1, recipe.views)
        self._features = trunk_features(images, learner, views, cache, progress)
        self.pooled = self._pool(learner, progress)

    def weigh(self, train: NDArray[np.intp]) -> None:
        """Have images count by how common their class is among those to learn from, if the recipe says so."""
        if self._recipe.class_weights:
            self.weights = class_weights(self.dataset, train)

    def at_rest(self, release: bool) -> Any:
        """Return what is given for every film as it is, ``(N, ...)``: the trunk's features, or pooled ones."""
        return self._features[0] if release else self.pooled

    def epoch(self, release: int, films: NDArray[np.intp], stage: int, epoch: int) -> "Epoch":
        """Return the batches of one epoch: each of these films once, in a drawn order and view."""
        return Epoch(self, release, self.chosen(films, stage, epoch), stage, epoch)

    def chosen(self, films: NDArray[np.intp], stage: int, epoch: int) -> NDArray[np.intp]:
        """Return which of these films ``(n,)`` an epoch has: all, or all positive ones and some others, ``(m,)``.

        How many others, the stage says. m is the same in every epoch.
        """
        ratio = self._recipe.stages[stage].negatives
        positive = self.labels[films] > 0
        wanted = round(ratio * int(positive.sum()))
        if not ratio or wanted >= int((~positive).sum()):
            return films
        # Windows on one drawn order: no negative film is seen a second time before all others were seen once.
        others = np.random.default_rng((self._recipe.seed, stage)).permutation(films[~positive])
        window = np.arange(epoch * wanted, (epoch + 1) * wanted) % len(others)
        return np.concatenate([films[positive], others[window]])

    def inputs(
        self, release: int, films: NDArray[np.intp], stage: int, epoch: int
    ) -> NDArray[np.float32] | NDArray[np.uint8]:
        """Return what a classifier is given for these n films in an epoch, or the whole network without fixed views.

        A head that learns alone is given films as they are, ``(n, C)``, so that views are new to the layers released
        after it. Those are given the trunk's features, ``(n, h, w, C)``, the whole network films, ``(n, size, size)``.
        """
        recipe = self._recipe
        if not release:
            at_rest: NDArray[np.float32] = self.pooled[films]
            return at_rest
        if not recipe.views:
            return augment(self._images, films, recipe.augmentation, (recipe.seed, stage, epoch))
        # Over as many epochs as there are views, a film that is in each of them is seen once in each view.
        views = (np.random.default_rng((recipe.seed, stage)).integers(recipe.views, size=len(self.labels)) + epoch)[
            films
        ]
        drawn: NDArray[np.float32] = self._features[views % recipe.views, films].astype(np.float32)
        return drawn

    def _pool(self, learner: Learner, progress: Progress) -> NDArray[np.float32]:
        forward = compile_forward(learner.pooling(), BATCH)
        pooled = np.empty((len(self.labels), learner.backbone.output_shape[-1]), np.float32)
        with progress.bar("pooled features", len(self.labels)) as advance:
            for place, batch in padded_batches(self._features[0], BATCH):
                count = place.stop - place.start
                pooled[place] = forward(batch.astype(np.float32))[0][:count]
                advance(count)
        return pooled


class Epoch(keras.utils.PyDataset):  # type: ignore[misc]
    """One epoch's batches: inputs, labels ``(n, 1)`` and weights ``(n, 1)``, all of one size.

    The last batch is filled up from the epoch's beginning, as a batch of another size would be compiled anew.
    """

    def __init__(self, material: TrainingInputs, release: int, films: NDArray[np.intp], stage: int, epoch: int) -> None:
        recipe = material._recipe
        super().__init__(workers=1 if recipe.views else LOADERS)
        self._material, self._where = material, (release, stage, epoch)
        order = np.random.default_rng((recipe.seed, stage, epoch)).permutation(films)
        steps = -(-len(films) // recipe.batch_size)
        self._batches = np.resize(order, (steps, recipe.batch_size))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> tuple[Any, Any, Any]:
        """Return one batch."""
        films, (release, stage, epoch) = self._batches[step], self._where
        inputs = self._material.inputs(release, films, stage, epoch)
        return inputs, self._material.labels[films, None], self._material.weights[films, None]


def class_weights(dataset: Dataset, train: NDArray[np.intp]) -> NDArray[np.float32]:
    r"""Weigh each image by the other class's share among its body part's films to learn from, relative to their mean.

    With :math:`P_t` positive and :math:`N_t` negative films of a body part, a positive film weighs
    :math:`N_t / (P_t + N_t)` and a negative one :math:`P_t / (P_t + N_t)` (Rajpurkar et al. 2018, arXiv:1712.06957,
    section 3.2). Of a part whose films are all of one class, films weigh as in the data as a whole.

    Parameters
    ----------
    dataset : Dataset
        N examples.
    train : ndarray of int, (n,)
        Which of them are learnt from; the labels of others decide nothing.

    Returns
    -------
    ndarray of float32, (N,)
        Positive, of mean 1 over ``train``.
    """
    labels, parts = dataset.labels, dataset.body_parts
    share = np.full(len(labels), labels[train].mean())
    for part in np.unique(parts[train]):
        positive = labels[train][parts[train] == part].mean()
        if 0 < positive < 1:
            share[parts == part] = positive
    weights = np.where(labels, 1 - share, share)
    relative: NDArray[np.float32] = (weights / weights[train].mean()).astype(np.float32)
    return relative
