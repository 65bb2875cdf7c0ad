"""The optimizer of a training stage: AdamW, its learning rate schedule, and a faster rate for new layers."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from training.fit.learner import Learner
from training.recipes import Stage


class DiscriminativeAdamW(keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW with a learning rate of its own, a multiple of the others', for some variables; weight decay is not faster.

    Parameters
    ----------
    faster : sequence of variables
        Those with the other learning rate.
    factor : float
        Their learning rate, relative to that of the others.

    References
    ----------
    Loshchilov and Hutter 2019, arXiv:1711.05101; Howard and Ruder 2018, arXiv:1801.06146, section 3.2.
    """

    def __init__(self, *args: Any, faster: Sequence[Any], factor: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Keys and not variables, which Keras would take for the optimizer's own.
        self._faster, self._factor = frozenset(map(self._var_key, faster)), factor

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        # Keras passes its own variable or the backend's, depending on the backend; the key is the same.
        faster = self._var_key(variable) in self._faster
        super().update_step(gradient, variable, learning_rate * self._factor if faster else learning_rate)


def make_optimizer(learner: Learner, stage: Stage, images: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a stage that trains on this many images in each epoch."""
    recipe = learner.recipe
    steps = math.ceil(images / recipe.batch_size)
    learning_rate: Any = stage.learning_rate
    if recipe.cosine:
        warmup_steps = round(recipe.warmup * steps)
        learning_rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup_steps else stage.learning_rate,
            stage.epochs * steps - warmup_steps,
            warmup_target=stage.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    return DiscriminativeAdamW(
        learning_rate,
        weight_decay=recipe.weight_decay,
        clipnorm=recipe.clip_norm or None,
        faster=learner.new_variables(),
        factor=stage.new_layers_factor,
    )
