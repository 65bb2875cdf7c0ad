"""Training inputs: what is fed to the trainable layers in each epoch, with labels and sample weights."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.data.annotations import cell_targets, mask
from training.data.dataset import Dataset
from training.fit.augment import augment
from training.fit.features import BATCH, cached_features, view_of
from training.fit.learner import Learner
from training.progress import Progress
from training.recipes import Augmentation, Stage
from xray.images.preprocessing import Preprocessing
from xray.network.engine import padded_batches
from xray.network.keras_engine import compile_forward

AUGMENTATION_THREADS = 4
"""Threads that augment images while the network is trained on the batches before."""


class TrainingInputs:
    """Inputs, labels, locations and sample weights of a data set's images.

    Parameters
    ----------
    dataset : Dataset
        N examples.
    images : ndarray of uint8, (N, size, size)
        Their preprocessed images.
    learner : Learner
        The network, and the recipe with its views and augmentation.
    cache : Path
        Folder for cached features.
    progress : Progress
        Shows progress bars.

    Attributes
    ----------
    labels : ndarray of float32, (N,)
        1 for positive.
    sample_weights : ndarray of float32, (N,)
        Weight of each image in the loss; 1 until `set_class_weights` is called.
    located : ndarray of bool, (N,)
        Whether it is known where an image has the finding: annotated, or negative.
    """

    def __init__(
        self, dataset: Dataset, images: NDArray[np.uint8], learner: Learner, cache: Path, progress: Progress
    ) -> None:
        recipe = learner.recipe
        self.dataset = dataset
        self.labels = dataset.labels.astype(np.float32)
        self.sample_weights = np.ones(len(dataset), np.float32)
        self._images, self._recipe = images, recipe
        # With views=0, training does not use cached views, but predictions use the unaugmented one.
        views = max(1, recipe.views)
        self._features = cached_features(images, learner, views, cache, progress)
        self._learner, self._progress = learner, progress
        self.has_locations = recipe.pyramid is not None
        preprocessing = Preprocessing(recipe.input_size, recipe.geometry)
        self._masks = {
            index: mask(example.annotations, preprocessing, *example.size)
            for index, example in enumerate(dataset.examples)
            if self.has_locations and example.annotations and example.size
        }
        annotated = np.array([bool(example.annotations) for example in dataset.examples], np.bool_)
        self.located = annotated | ~dataset.labels
        self._cells = learner.map_shape[0]
        self._view_targets = [self._targets_of_view(view) for view in range(views)] if recipe.views else []

    def set_class_weights(self, train: NDArray[np.intp]) -> None:
        """Weight images by the frequency of their class in the training images, if the recipe says so."""
        if self._recipe.class_weights:
            self.sample_weights = class_weights(self.dataset, train)

    def unaugmented(self, stage: Stage) -> Any:
        """Return the input of a stage's classifier for every image without augmentation, ``(N, ...)``."""
        return self._features[0] if stage.trainable_layers else self.pooled

    @property
    def features(self) -> NDArray[np.float16]:
        """Frozen layers' features of the unaugmented images, ``(N, h, w, C)``, memory-mapped."""
        unaugmented: NDArray[np.float16] = self._features[0]
        return unaugmented

    def epoch(self, train: NDArray[np.intp], stage: int, epoch: int) -> "EpochBatches":
        """Return the shuffled batches of one epoch."""
        return EpochBatches(self, self.epoch_indices(train, stage, epoch), stage, epoch)

    def epoch_indices(self, train: NDArray[np.intp], stage: int, epoch: int) -> NDArray[np.intp]:
        """Return which of the n training images an epoch has, ``(m,)``; m is the same in every epoch.

        All of them, or with the stage's ``negatives`` all positive images and that many negative ones.
        """
        ratio = self._recipe.stages[stage].negatives
        positive = self.labels[train] > 0
        wanted = round(ratio * int(positive.sum()))
        if not ratio or wanted >= int((~positive).sum()):
            return train
        # Consecutive windows of one permutation: every negative image is used once before any is used again.
        negatives = np.random.default_rng((self._recipe.seed, stage)).permutation(train[~positive])
        window = np.arange(epoch * wanted, (epoch + 1) * wanted) % len(negatives)
        return np.concatenate([train[positive], negatives[window]])

    def inputs(self, indices: NDArray[np.intp], stage: int, epoch: int) -> NDArray[np.float32] | NDArray[np.uint8]:
        """Return the inputs of n images in an epoch.

        Returns
        -------
        ndarray
            Pooled features of the unaugmented images, ``(n, C)``, in a stage that trains the head alone, so that the
            augmented views are new to the layers trained after it. Otherwise the frozen layers' features of one view,
            ``(n, h, w, C)``, or newly augmented images, ``uint8 (n, size, size)``, if the recipe has no fixed views.
        """
        recipe = self._recipe
        if not recipe.stages[stage].trainable_layers:
            pooled: NDArray[np.float32] = self.pooled[indices]
            return pooled
        if not recipe.views:
            return augment(self._images, indices, recipe.augmentation, (recipe.seed, stage, epoch))
        views = self._views(indices, stage, epoch)
        features: NDArray[np.float32] = self._features[views, indices].astype(np.float32)
        return features

    def targets(self, indices: NDArray[np.intp], stage: int, epoch: int) -> NDArray[np.float32]:
        """Return where n images have the finding in an epoch, moved as the images are: ``(n, h, w)``, in [0, 1]."""
        targets = np.zeros((len(indices), self._cells, self._cells), np.float32)
        annotated = np.array([index in self._masks for index in indices.tolist()], np.bool_)
        if not annotated.any():
            return targets
        if self._recipe.views:
            views = self._views(indices, stage, epoch)
            targets[annotated] = [
                self._view_targets[view][index]
                for view, index in zip(views[annotated].tolist(), indices[annotated].tolist(), strict=True)
            ]
        else:
            moved = augment(self._masks, indices[annotated], self._movement, (self._recipe.seed, stage, epoch))
            targets[annotated] = cell_targets(moved, self._cells)
        return targets

    @property
    def _movement(self) -> Augmentation:
        """The augmentation without changes of the gray values; it moves by the same random numbers."""
        return replace(self._recipe.augmentation, gain=0.0, gamma=0.0)

    def _targets_of_view(self, view: int) -> dict[int, NDArray[np.float32]]:
        indices = np.array(sorted(self._masks), np.intp)
        if not len(indices):
            return {}
        moved = view_of(self._masks, indices, view, self._movement, self._recipe.seed)
        return dict(zip(indices.tolist(), cell_targets(moved, self._cells), strict=True))

    def _views(self, indices: NDArray[np.intp], stage: int, epoch: int) -> NDArray[np.intp]:
        """Return which view n images have in an epoch, ``(n,)``: a random one at first and then the next ones."""
        recipe = self._recipe
        first = np.random.default_rng((recipe.seed, stage)).integers(recipe.views, size=len(self.labels))
        views: NDArray[np.intp] = (first + epoch)[indices] % recipe.views
        return views

    @cached_property
    def pooled(self) -> NDArray[np.float32]:
        """Pooled features of the unaugmented images, ``(N, C)``, computed with the weights before training.

        A recipe with a finer map does not need them, and they take a minute.
        """
        forward = compile_forward(self._learner.pooling_model(), BATCH)
        pooled = np.empty((len(self.labels), self._learner.backbone.output_shape[-1]), np.float32)
        with self._progress.bar("pooled features", len(self.labels)) as advance:
            for place, batch in padded_batches(self._features[0], BATCH):
                count = place.stop - place.start
                pooled[place] = forward(batch.astype(np.float32))[0][:count]
                advance(count)
        return pooled


class EpochBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of one epoch: inputs, labels ``(n, 1)`` and sample weights ``(n, 1)``.

    With a finer map, labels and weights are pairs: those of the images, and the targets ``(n, h, w)`` of the cells with
    a weight of 0 ``(n,)`` for images of which it is not known where they have the finding.

    The last batch is filled with images from the first, because a different batch size would be compiled again.
    """

    def __init__(self, inputs: TrainingInputs, indices: NDArray[np.intp], stage: int, epoch: int) -> None:
        recipe = inputs._recipe
        super().__init__(workers=1 if recipe.views else AUGMENTATION_THREADS)
        self._inputs, self._stage, self._epoch = inputs, stage, epoch
        shuffled = np.random.default_rng((recipe.seed, stage, epoch)).permutation(indices)
        steps = -(-len(indices) // recipe.batch_size)
        self._batches = np.resize(shuffled, (steps, recipe.batch_size))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> tuple[Any, Any, Any]:
        """Return one batch."""
        indices, inputs = self._batches[step], self._inputs
        images = inputs.inputs(indices, self._stage, self._epoch)
        labels, weights = inputs.labels[indices, None], inputs.sample_weights[indices, None]
        if not inputs.has_locations:
            return images, labels, weights
        targets = inputs.targets(indices, self._stage, self._epoch)
        return images, (labels, targets), (weights, inputs.located[indices].astype(np.float32))


def class_weights(dataset: Dataset, train: NDArray[np.intp]) -> NDArray[np.float32]:
    r"""Weight each image by the share of the other class among its body part's training images, relative to the mean.

    With :math:`P_t` positive and :math:`N_t` negative images of a body part, a positive image has the weight
    :math:`N_t / (P_t + N_t)` and a negative one :math:`P_t / (P_t + N_t)` (Rajpurkar et al. 2018, arXiv:1712.06957,
    section 3.2). Images of a body part with one class only are weighted as in the training images as a whole.

    Parameters
    ----------
    dataset : Dataset
        N examples.
    train : ndarray of int, (n,)
        Indices of the training images; the labels of others have no influence.

    Returns
    -------
    ndarray of float32, (N,)
        Positive, with mean 1 over ``train``.
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
