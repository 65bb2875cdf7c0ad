"""Train a network through its recipe's stages, and predict with it; an interrupted run continues from a checkpoint."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tensorboard.summary import Writer

from training.evaluate.metrics import auroc
from training.evaluate.predictions import NetworkOutputs
from training.fit.checkpoint import State, assign_values, get_values, read_checkpoint, write_checkpoint
from training.fit.features import BATCH
from training.fit.inputs import TrainingInputs
from training.fit.learner import Learner
from training.fit.location_loss import LocationLoss
from training.fit.optimizer import make_optimizer
from training.progress import Progress
from training.recipes import Recipe, Stage
from xray.errors import TrainingFailure
from xray.network.engine import padded_batches, stored_cams
from xray.network.keras_engine import compile_forward

CHECKPOINT, LOGS = "checkpoint.npz", "logs"


@dataclass(frozen=True)
class TrainingIndices:
    """Indices of the training images, ``(n,)``, and of the validation images for early stopping, ``(m,)``."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))


def fit(
    learner: Learner,
    inputs: TrainingInputs,
    indices: TrainingIndices,
    folder: Path,
    fingerprint: str,
    progress: Progress,
) -> None:
    """Run all stages of a recipe, and update the inference network with the trained weights.

    Parameters
    ----------
    learner : Learner
        The network, with its initial weights.
    inputs : TrainingInputs
        Inputs and labels of all images.
    indices : TrainingIndices
        Which images to train on; early stopping needs validation images.
    folder : Path
        Folder for the checkpoint and the TensorBoard logs; created if missing.
    fingerprint : str
        Hash of everything that decides the outcome, see :func:`training.fit.checkpoint.write_checkpoint`.
    progress : Progress
        Shows a line per epoch and a progress bar.

    Raises
    ------
    TrainingFailure
        If the loss is not a number.
    UsageError
        If the folder holds another run.
    StorageOutage
        If the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if learner.attention is None:
        learner.standardise(inputs.pooled[indices.train])
    inputs.set_class_weights(indices.train)
    state = read_checkpoint(folder / CHECKPOINT, fingerprint) or State()
    variables = learner.trainable_variables()
    if state.weights:
        assign_values(variables, state.weights)
        progress.say(f"continuing after stage {state.stage + 1}, epoch {state.epoch}")
    for stage in learner.recipe.stages[state.stage :]:
        _StageTrainer(learner, inputs, indices, stage, state, variables).run(folder, fingerprint, progress)
    learner.update_inference_model()


def predict(learner: Learner, inputs: TrainingInputs, indices: NDArray[np.intp], progress: Progress) -> NetworkOutputs:
    """Return the inference network's outputs for n images, without augmentation."""
    forward = compile_forward(learner.inference_from_features(), BATCH)
    logits, maxima, distances = (np.empty(len(indices)) for _ in range(3))
    maps = []
    with progress.bar("predicting held-out images", len(indices)) as advance:
        for place, batch in padded_batches(indices, BATCH):
            batch_logits, cams, batch_distances = forward(inputs.features[batch].astype(np.float32))
            count = place.stop - place.start
            logits[place], maxima[place] = batch_logits[:count], cams[:count].max(axis=(1, 2))
            maps.append(stored_cams(cams[:count]))
            distances[place] = batch_distances[:count]
            advance(count)
    return NetworkOutputs(logits, maxima, np.concatenate(maps), distances)


def on_gpu() -> bool:
    """Return whether Keras' backend has a GPU."""
    if keras.backend.backend() == "jax":
        import jax

        return bool(jax.default_backend() == "gpu")
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


class _StageTrainer:
    """Trains one stage: its compiled model, and the state of the run."""

    def __init__(
        self,
        learner: Learner,
        inputs: TrainingInputs,
        indices: TrainingIndices,
        stage: Stage,
        state: State,
        variables: list[Any],
    ) -> None:
        self.learner, self.inputs, self.indices = learner, inputs, indices
        self.stage, self.state, self.variables = stage, state, variables
        recipe = learner.recipe
        self.classifier = learner.classifier(stage)
        cached = recipe.views or not stage.trainable_layers
        self.model = self.classifier if cached else learner.image_classifier(stage)
        self.model.compile(
            optimizer=make_optimizer(learner, stage, len(inputs.epoch_indices(indices.train, state.stage, 0))),
            **_losses(recipe),
            # On a CPU, TensorFlow's own kernels are faster than XLA's convolutions.
            jit_compile="auto" if on_gpu() else False,
        )
        self._logit_model = keras.Model(self.classifier.input, self.classifier.outputs[0])
        self.model.optimizer.build(self.model.trainable_variables)
        if state.optimizer:
            assign_values(self.model.optimizer.variables, state.optimizer)

    def run(self, folder: Path, fingerprint: str, progress: Progress) -> None:
        """Train the remaining epochs, with a checkpoint after each."""
        state, stage, recipe = self.state, self.stage, self.learner.recipe
        logs = Writer(str(folder / LOGS))
        while state.epoch < stage.epochs and not (recipe.patience and state.stale >= recipe.patience):
            row = self._train_epoch(progress)
            state.epoch += 1
            state.history.append(row)
            state.weights, state.optimizer = get_values(self.variables), get_values(self.model.optimizer.variables)
            # The loss is computed before a step changes the weights, so the last step is checked here.
            if not all(np.isfinite(weight).all() for weight in state.weights):
                raise _not_a_number("a weight", state.stage + 1, state.epoch)
            self._keep_weights(row)
            write_checkpoint(folder / CHECKPOINT, state, fingerprint)
            for key in row.keys() - {"stage", "epoch"}:
                logs.add_scalar(key, row[key], len(state.history))
            progress.say(_epoch_line(row, stage, len(recipe.stages)))
        logs.close()
        if state.kept:
            assign_values(self.variables, state.kept)
        # The next stage starts with these weights and an optimizer of its own.
        state.stage, state.epoch, state.weights, state.optimizer, state.kept = state.stage + 1, 0, [], [], []
        state.best_loss, state.stale, state.weights = None, 0, get_values(self.variables)
        write_checkpoint(folder / CHECKPOINT, state, fingerprint)

    def _train_epoch(self, progress: Progress) -> dict[str, float]:
        state = self.state
        start = time.monotonic()
        for number, layer in enumerate(self.learner.random_layers()):
            # Set anew in each epoch, so that an epoch is the same wherever the run was interrupted before.
            layer.seed_generator.state.assign((self.learner.recipe.seed + number, 1000 * state.stage + state.epoch))
        batches = self.inputs.epoch(self.indices.train, state.stage, state.epoch)
        with progress.bar(f"stage {state.stage + 1}, epoch {state.epoch + 1}", len(batches), unit="step") as advance:
            check = _LossCheck(state.stage + 1, state.epoch + 1, lambda: advance(1))
            history = self.model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[check]).history
        row = {
            "stage": state.stage + 1,
            "epoch": state.epoch + 1,
            "loss": float(history["loss"][0]),
            "learning_rate": float(self.model.optimizer.learning_rate),
        }
        if len(self.indices.validation):
            row |= self._validate(progress)
        return {**row, "seconds": time.monotonic() - start}

    def _validate(self, progress: Progress) -> dict[str, float]:
        validation = self.indices.validation
        with progress.bar(f"validation after epoch {self.state.epoch + 1}", len(validation)) as advance:
            logits = _logits(self._logit_model, self.inputs.unaugmented(self.stage), validation, advance)
        labels = self.inputs.labels[validation]
        losses = np.logaddexp(0, -logits) * labels + np.logaddexp(0, logits) * (1 - labels)
        loss = float(np.average(losses, weights=self.inputs.sample_weights[validation]))
        if not math.isfinite(loss):
            raise _not_a_number("the validation loss", self.state.stage + 1, self.state.epoch + 1)
        return {"validation_loss": loss, "validation_auroc": auroc(labels > 0, logits)}

    def _keep_weights(self, row: dict[str, float]) -> None:
        """Keep the best epoch's weights (early stopping), or add to the mean of the last epochs' weights."""
        state, recipe = self.state, self.learner.recipe
        if recipe.patience:
            better = state.best_loss is None or row["validation_loss"] < state.best_loss
            state.stale = 0 if better else state.stale + 1
            if better:
                state.best_loss, state.kept = row["validation_loss"], state.weights
        elif state.stage + 1 == len(recipe.stages) and state.epoch > self.stage.epochs - recipe.average:
            state.averaged += 1
            before = state.kept or [np.zeros_like(weight) for weight in state.weights]
            state.kept = [k + (w - k) / state.averaged for k, w in zip(before, state.weights, strict=True)]


class _LossCheck(keras.callbacks.Callback):  # type: ignore[misc]
    """Advances the progress bar, and stops training as soon as the loss is not a number."""

    def __init__(self, stage: int, epoch: int, advance: Any) -> None:
        super().__init__()
        self._stage, self._epoch, self._advance = stage, epoch, advance

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Check the mean loss of the epoch so far."""
        if not math.isfinite((logs or {})["loss"]):
            raise _not_a_number("the loss", self._stage, self._epoch)
        self._advance()


def _logits(
    model: keras.Model,
    inputs: Any,
    indices: NDArray[np.intp],
    advance: Callable[[int], None],
    batch_size: int = 64,
) -> NDArray[np.float64]:
    """Return a classifier's logits ``(n,)`` for n of its inputs, in inference mode."""
    logits = np.empty(len(indices))
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        # Padded, because a different batch size would be compiled again.
        outputs = model.predict_on_batch(np.asarray(inputs[np.resize(batch, batch_size)], np.float32))
        logits[start : start + batch_size] = outputs[: len(batch), 0]
        advance(len(batch))
    return logits


def _losses(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of ``compile`` for the losses: of the images' labels, and with a finer map of its cells."""
    labels = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    if recipe.pyramid is None:
        return {"loss": labels}
    return {"loss": [labels, LocationLoss()], "loss_weights": [1.0, recipe.location_weight]}


def _not_a_number(value: str, stage: int, epoch: int) -> TrainingFailure:
    return TrainingFailure(
        f"{value} is not a number in stage {stage}, epoch {epoch}: check the images with bonescreen audit, or start "
        "again in a different --out with a different --seed or a larger --batch-size"
    )


def _epoch_line(row: dict[str, float], stage: Stage, stages: int) -> str:
    text = f"stage {row['stage']}/{stages}, epoch {row['epoch']}/{stage.epochs}: loss {row['loss']:.4f}"
    if "validation_loss" in row:
        text += f", validation loss {row['validation_loss']:.4f}, AUROC {row['validation_auroc']:.4f}"
    return f"{text}, {row['seconds']:.0f} s"
