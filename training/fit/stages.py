"""Teach a learner its recipe's stages, one after the other; stop it anywhere and it goes on from its last epoch."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tensorboard.summary import Writer

from training.evaluate.metrics import auroc
from training.fit.checkpoint import State, assign, copies, read_state, write_state
from training.fit.inputs import TrainingInputs
from training.fit.learner import Learner
from training.progress import Progress
from training.recipes import Recipe, Stage
from xray.errors import TrainingFailure

CHECKPOINT, LOGS = "checkpoint.npz", "logs"


@dataclass(frozen=True)
class TrainingIndices:
    """Which films are learnt from, and which, if any, are held out to stop in time: indices, ``(n,)`` and ``(m,)``."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))


def fit(
    learner: Learner,
    material: TrainingInputs,
    films: TrainingIndices,
    folder: Path,
    fingerprint: str,
    progress: Progress,
) -> None:
    """Run a recipe's stages, and leave what was learnt in the learner's network.

    Parameters
    ----------
    learner : Learner
        As it was made: nothing learnt yet.
    material : Material
        The films.
    films : Films
        Which to learn from; patience needs a validation part.
    folder : Path
        Holds the checkpoint and the logs; made if missing.
    fingerprint : str
        Of all that decides the outcome, see :func:`training.fit.checkpoint.write_state`.
    progress : Progress
        Is told of every epoch.

    Raises
    ------
    TrainingFailure
        If the loss is no longer a number.
    UsageError
        If the folder holds another run.
    StorageOutage
        If the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learner.standardise(material.pooled[films.train])
    material.weigh(films.train)
    state = read_state(folder / CHECKPOINT, fingerprint) or State()
    variables = learner.learnt()
    if state.weights:
        assign(variables, state.weights)
        progress.say(f"going on after stage {state.stage + 1}, epoch {state.epoch}")
    for stage in learner.recipe.stages[state.stage :]:
        _StageTrainer(learner, material, films, stage, state, variables).run(folder, fingerprint, progress)
    learner.ship()


class _StageTrainer:
    """One stage: its model, and where the run stands."""

    def __init__(
        self,
        learner: Learner,
        material: TrainingInputs,
        films: TrainingIndices,
        stage: Stage,
        state: State,
        variables: list[Any],
    ) -> None:
        self.learner, self.material, self.films = learner, material, films
        self.stage, self.state, self.variables = stage, state, variables
        recipe = learner.recipe
        self.at_rest = learner.classifier(stage)
        self.model = self.at_rest if recipe.views or not stage.release else learner.whole(stage)
        self.model.compile(
            optimizer=_optimizer(recipe, stage, len(material.chosen(films.train, state.stage, 0))),
            loss=keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
            # On a CPU, TensorFlow's own kernels are faster than what XLA makes of convolutions.
            jit_compile="auto" if on_gpu() else False,
        )
        self.model.optimizer.build(self.model.trainable_variables)
        if state.optimizer:
            assign(self.model.optimizer.variables, state.optimizer)

    def run(self, folder: Path, fingerprint: str, progress: Progress) -> None:
        """Run the stage from where it stands to its end."""
        state, stage, recipe = self.state, self.stage, self.learner.recipe
        logs = Writer(str(folder / LOGS))
        while state.epoch < stage.epochs and not (recipe.patience and state.stale >= recipe.patience):
            row = self._epoch(progress)
            state.epoch += 1
            state.history.append(row)
            state.weights, state.optimizer = copies(self.variables), copies(self.model.optimizer.variables)
            # The last step's loss was of the weights before it.
            if not all(np.isfinite(weight).all() for weight in state.weights):
                raise _not_a_number("network", state.stage + 1, state.epoch)
            self._keep(row)
            write_state(folder / CHECKPOINT, state, fingerprint)
            for key in row.keys() - {"stage", "epoch"}:
                logs.add_scalar(key, row[key], len(state.history))
            progress.say(_line(row, stage, len(recipe.stages)))
        logs.close()
        if state.kept:
            assign(self.variables, state.kept)
        # What the next stage begins with; its own optimizer has not stepped yet.
        state.stage, state.epoch, state.weights, state.optimizer, state.kept = state.stage + 1, 0, [], [], []
        state.best_loss, state.stale, state.weights = None, 0, copies(self.variables)
        write_state(folder / CHECKPOINT, state, fingerprint)

    def _epoch(self, progress: Progress) -> dict[str, float]:
        state, stage = self.state, self.stage
        began = time.monotonic()
        for number, dropout in enumerate(self.learner.dropouts()):
            # Not where the last epoch left it: an epoch's draws must not depend on where the run was resumed.
            dropout.seed_generator.state.assign((self.learner.recipe.seed + number, 1000 * state.stage + state.epoch))
        batches = self.material.epoch(stage.release, self.films.train, state.stage, state.epoch)
        with progress.bar(f"stage {state.stage + 1}, epoch {state.epoch + 1}", len(batches)) as advance:
            watch = _Watch(state.stage + 1, state.epoch + 1, lambda: advance(1))
            history = self.model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[watch]).history
        row = {
            "stage": state.stage + 1,
            "epoch": state.epoch + 1,
            "loss": float(history["loss"][0]),
            "learning_rate": float(self.model.optimizer.learning_rate),
        }
        if len(self.films.validation):
            row |= self._validate()
        return {**row, "seconds": time.monotonic() - began}

    def _validate(self) -> dict[str, float]:
        films = self.films.validation
        logits = rest_logits(self.at_rest, self.material.at_rest(self.stage.release > 0), films)
        labels = self.material.labels[films]
        losses = np.logaddexp(0, -logits) * labels + np.logaddexp(0, logits) * (1 - labels)
        loss = float(np.average(losses, weights=self.material.weights[films]))
        if not math.isfinite(loss):
            raise _not_a_number("validation loss", self.state.stage + 1, self.state.epoch + 1)
        return {"validation_loss": loss, "validation_auroc": auroc(labels > 0, logits)}

    def _keep(self, row: dict[str, float]) -> None:
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


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Moves the bar, and ends the run at the first step whose loss is no number."""

    def __init__(self, stage: int, epoch: int, advance: Any) -> None:
        super().__init__()
        self._stage, self._epoch, self._advance = stage, epoch, advance

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the loss so far."""
        if not math.isfinite((logs or {})["loss"]):
            raise _not_a_number("loss", self._stage, self._epoch)
        self._advance()


def rest_logits(model: keras.Model, inputs: Any, films: NDArray[np.intp], batch: int = 64) -> NDArray[np.float64]:
    """Return a classifier's logits ``(n,)`` of films as they are, without dropout."""
    logits = np.empty(len(films))
    for start in range(0, len(films), batch):
        some = films[start : start + batch]
        # Always of one size, as another would be compiled anew.
        outputs = model.predict_on_batch(np.asarray(inputs[np.resize(some, batch)], np.float32))
        logits[start : start + batch] = outputs[: len(some), 0]
    return logits


def on_gpu() -> bool:
    """Say whether Keras' backend has a GPU."""
    if keras.backend.backend() == "jax":
        import jax

        return bool(jax.default_backend() == "gpu")
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _optimizer(recipe: Recipe, stage: Stage, films: int) -> keras.optimizers.Optimizer:
    steps = math.ceil(films / recipe.batch_size)
    rate: Any = stage.learning_rate
    if recipe.cosine:
        rising = round(recipe.warmup * steps)
        start = 0.0 if rising else stage.learning_rate
        rate = keras.optimizers.schedules.CosineDecay(
            start,
            stage.epochs * steps - rising,
            warmup_target=stage.learning_rate if rising else None,
            warmup_steps=rising,
        )
    return keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)


def _not_a_number(what: str, stage: int, epoch: int) -> TrainingFailure:
    return TrainingFailure(
        f"the {what} is no longer a number in stage {stage}, epoch {epoch}: "
        "look for faulty films with bonescreen doctor, or begin anew elsewhere (--out) with another --seed or a larger "
        "--batch-size"
    )


def _line(row: dict[str, float], stage: Stage, stages: int) -> str:
    text = f"stage {row['stage']}/{stages}, epoch {row['epoch']}/{stage.epochs}: loss {row['loss']:.4f}"
    if "validation_loss" in row:
        text += f", validation loss {row['validation_loss']:.4f}, AUROC {row['validation_auroc']:.4f}"
    return f"{text}, {row['seconds']:.0f} s"
