"""Fit the head's three dense layers to frozen, pooled features."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.recipe import Recipe
from xray.cam import HeadWeights

MIN_DEVIATION = 1e-2
"""Channels that hardly vary are not blown up: their noise would be, and float16 would not hold the kernel."""


def fit_head(
    pooled: NDArray[np.float32],
    labels: NDArray[np.bool_],
    recipe: Recipe,
    epochs: int,
    held_out: tuple[NDArray[np.float32], NDArray[np.bool_]] | None = None,
) -> tuple[HeadWeights, int]:
    """Fit the head with dropout, weight decay and class weights, seeded.

    Parameters
    ----------
    pooled : ndarray of float32, (N, C)
        Pooled features.
    labels : ndarray of bool, (N,)
        Human labels.
    recipe : Recipe
        Widths, dropout, optimiser, seed.
    epochs : int
        How many; at most, with ``held_out``.
    held_out : tuple of ndarray, optional
        Features and labels of other groups: training stops early by their loss.

    Returns
    -------
    weights : HeadWeights
        For features as they are: the standardisation used while fitting is folded into the first layer.
    best_epoch : int
        The epoch with the least held-out loss, counted from 1; ``epochs`` without ``held_out``.
    """
    keras.utils.set_random_seed(recipe.seed)
    mean, deviation = pooled.mean(axis=0), np.maximum(pooled.std(axis=0), MIN_DEVIATION)
    model = _trainable_head(pooled.shape[1], recipe)
    positives = labels.mean()
    history = model.fit(
        (pooled - mean) / deviation,
        labels.astype(np.float32),
        batch_size=recipe.batch_size,
        epochs=epochs,
        # each class weighs as much as the other
        class_weight={0: 0.5 / (1 - positives), 1: 0.5 / positives},
        validation_data=held_out and ((held_out[0] - mean) / deviation, held_out[1].astype(np.float32)),
        callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=recipe.patience)] if held_out else [],
        verbose=0,
    )
    best_epoch = int(np.argmin(history.history["val_loss"])) + 1 if held_out else epochs
    return _fold_standardisation(model, mean, deviation), best_epoch


def _trainable_head(channels: int, recipe: Recipe) -> keras.Model:
    """Build the head's dense layers alone, as a model of pooled features."""
    layers: list[Any] = [keras.Input((channels,))]
    for width in recipe.head:
        layers += [
            keras.layers.Dropout(recipe.dropout),
            keras.layers.Dense(width, "relu", kernel_initializer="he_normal"),
        ]
    model = keras.Sequential([*layers, keras.layers.Dropout(recipe.dropout), keras.layers.Dense(1)])
    model.compile(
        optimizer=keras.optimizers.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        # compiling takes longer than three small layers save
        jit_compile=False,
    )
    return model


def _fold_standardisation(model: keras.Model, mean: NDArray[np.float32], deviation: NDArray[np.float32]) -> HeadWeights:
    kernel_1, bias_1, kernel_2, bias_2, kernel_3, bias_3 = model.get_weights()
    kernel_1 = kernel_1 / deviation[:, None]
    return HeadWeights((kernel_1, kernel_2, kernel_3), (bias_1 - mean @ kernel_1, bias_2, bias_3))
