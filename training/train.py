"""What a training run is asked for."""

import fcntl
import hashlib
import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from training.config import TrainingConfig
from training.data.dataset import Dataset, Role
from training.data.images import load_images
from training.data.leakage import LeakageVerdict, check_leakage
from training.data.split import Split, make_split
from training.disk import make_folder
from training.evaluate.held_out import HeldOutSet, ModelEvaluation, evaluate_model
from training.fit.cross_validation import cross_validate, predict
from training.fit.features import features_key
from training.fit.inputs import TrainingInputs
from training.fit.learner import Initial, Learner
from training.fit.stages import TrainingIndices, fit, on_gpu
from training.package import MAKING, release
from training.progress import Progress
from training.recipes import Recipe
from xray.errors import UsageError
from xray.images.preprocessing import Preprocessing
from xray.network.keras_engine import prepare_backend
from xray.network.package import ModelPackage

CACHE, PREDICTIONS = "cache", "predictions.csv"


def train(order: TrainingConfig) -> tuple[ModelPackage, ModelEvaluation]:
    """Train a model package; killed and run again with the same order, go on from the last epoch.

    Everything is measured on films that the network has not learnt from, preprocessed as in screening.

    Returns
    -------
    package : ModelPackage
        As written, and read back.
    judgement : Judgement
        What was measured.

    Raises
    ------
    UsageError
        If data, split or weights cannot be used, the package exists, or ``out`` holds another run.
    TrainingFailure
        If the loss is no longer a number.
    StorageOutage
        If the disk is full.
    """
    recipe, progress = order.recipe, Progress()
    target = order.out / f"{recipe.name}-{recipe.version}"
    if target.exists():
        raise UsageError(f"{target} exists: a model package is never changed, choose another --out")
    with _alone_in(order.out):
        _clear(order.out, target.name)
        _prepare(order)
        progress.say(f"{recipe}\n")
        gathered = _gather(order, progress)
        learner, dataset = gathered.learner, gathered.dataset
        material = TrainingInputs(dataset, gathered.images, learner, order.out / CACHE, progress)
        fingerprint = _fingerprint(order, learner, material, features_key(gathered.images, learner))
        runs = order.out / f"{target.name}.run"
        if gathered.split is None:
            tuning = test = _cross_validated(learner, material, runs, fingerprint, progress)
        else:
            tuning, test = _held_out(learner, material, gathered.parts, runs, fingerprint, progress)
        judgement = evaluate_model(tuning, test)
        judgement.predictions.write(order.out / PREDICTIONS)
        package = release(order, learner, judgement, dataset, gathered.faults, gathered.split, target)
    return package, judgement


@dataclass(frozen=True)
class _Gathered:
    """All that a run starts from: films that can be read, what they are for, and the network as it begins."""

    dataset: Dataset
    images: NDArray[np.uint8]
    faults: str
    split: Split | None
    parts: dict[Role, NDArray[np.bool_]]
    learner: Learner


def _gather(order: TrainingConfig, progress: Progress) -> _Gathered:
    """Read what is there, and refuse what cannot be trained on before any hour is lost."""
    recipe, listed = order.recipe, order.dataset
    progress.say(f"{listed.terms.name}: {_described(listed)}")
    for note in listed.notes:
        progress.say(f"note: {note}")
    # What needs no film is looked at before the first is decoded.
    listed.require_both_classes("the data")
    if order.split and not recipe.folds:
        for role in (Role.TRAIN, Role.VALIDATION):
            order.split.part(listed, role)
    learner = Learner(recipe, order.initial)
    preprocessing = Preprocessing(recipe.input_size, recipe.geometry)
    dataset, images, skipped = load_images(listed, preprocessing, order.out / CACHE)
    faults = ", ".join(f"{reason} {count}" for reason, count in skipped.most_common()) or "none"
    progress.say(f"unreadable and left out: {faults}")
    dataset.require_both_classes("the data")
    split = None if recipe.folds else order.split or _drawn(recipe, dataset)
    parts = {} if split is None else {role: split.mask(dataset, role) for role in Role}
    for role, mask in parts.items():
        if mask.any() or role is not Role.TEST:
            dataset.select(mask).require_both_classes(f"the {role} part")
            progress.say(f"{role}: {_described(dataset.select(mask))}")
    _require_unseen(order.initial, dataset if split is None else dataset.select(~parts[Role.TRAIN]))
    return _Gathered(dataset, images, faults, split, parts, learner)


def _cross_validated(
    learner: Learner, material: TrainingInputs, runs: Path, fingerprint: str, progress: Progress
) -> HeldOutSet:
    """Measure out of fold, then learn from everything."""
    answers = cross_validate(learner, material, runs, fingerprint, progress)
    progress.say("all folds: learning from every image")
    learner.reset()
    fit(learner, material, TrainingIndices(np.arange(len(material.dataset))), runs / "all", fingerprint, progress)
    return HeldOutSet(material.dataset, answers, "out of fold")


def _held_out(
    learner: Learner,
    material: TrainingInputs,
    parts: dict[Role, NDArray[np.bool_]],
    runs: Path,
    fingerprint: str,
    progress: Progress,
) -> tuple[HeldOutSet, HeldOutSet]:
    """Learn from one part, choose on another, measure on a third."""
    films = {role: np.flatnonzero(mask) for role, mask in parts.items()}
    fit(learner, material, TrainingIndices(films[Role.TRAIN], films[Role.VALIDATION]), runs, fingerprint, progress)
    exams = {
        role: HeldOutSet(material.dataset.select(parts[role]), predict(learner, material, films[role]), f"{role} part")
        for role in (Role.VALIDATION, Role.TEST)
        if len(films[role])
    }
    tuning = exams[Role.VALIDATION]
    return tuning, exams.get(Role.TEST, replace(tuning, how="validation part, which also stopped the training"))


def _require_unseen(initial: Initial, held_out: Dataset) -> None:
    """Refuse a beginning that has learnt from what is to be measured on."""
    if not isinstance(initial, ModelPackage):
        return
    found = check_leakage(initial, held_out)
    if found.verdict is LeakageVerdict.SEEN:
        raise UsageError(
            f"{initial.path} cannot be begun with, as what is held out would not be unseen. {found.text} "
            "Give the split that it was trained with (--split), or other weights"
        )


def _drawn(recipe: Recipe, dataset: Dataset) -> Split:
    return make_split(dataset, validation=recipe.validation, test=recipe.test, seed=recipe.seed)


def _prepare(order: TrainingConfig) -> None:
    """Set Keras up before anything is built: precision, seeds, and the same numbers each time if asked for."""
    prepare_backend()
    keras.config.set_dtype_policy("mixed_float16" if on_gpu() else "float32")
    keras.utils.set_random_seed(order.recipe.seed)
    if order.deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def _fingerprint(order: TrainingConfig, learner: Learner, material: TrainingInputs, films: str) -> str:
    """Hash all that decides what a run makes, so that a checkpoint is never gone on from with something else."""
    recipe = replace(order.recipe, command="", data="", measured="")
    split = order.split and order.split.to_csv()
    versions = [keras.config.dtype_policy().name]
    versions += [importlib.metadata.version(name) for name in ("keras", keras.backend.backend(), "numpy")]
    digest = hashlib.sha256(repr((recipe, films, split, order.deterministic, versions)).encode())
    for array in (material.labels, material.weights, material.dataset.groups, *learner.first_weights()):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Hold a folder, so that two runs do not write the same files."""
    make_folder(out)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another training run works in {out}: wait for it, or choose another --out") from error
        yield


def _clear(out: Path, name: str) -> None:
    """Delete what a killed run has left half written, and none goes on from."""
    for partial in (out / CACHE).glob("*.images.*.part"):
        partial.unlink()
    for staging in (*out.glob(f".{name}-*"), *out.glob(f"{MAKING}*")):
        shutil.rmtree(staging)


def _described(dataset: Dataset) -> str:
    groups, studies = len(np.unique(dataset.groups)), len(np.unique(dataset.studies))
    return (
        f"{len(dataset):,} images, {int(dataset.labels.sum()):,} positive ({dataset.finding}), "
        f"{studies:,} studies, {groups:,} groups"
    )
