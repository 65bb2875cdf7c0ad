"""Train a model package: prepare data and network, fit, evaluate on held-out images, write the package."""

import fcntl
import hashlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from training.config import TrainingConfig
from training.data.dataset import Dataset, Role
from training.data.images import load_images
from training.data.leakage import LeakageVerdict, check_leakage
from training.data.split import Split, assign_folds, make_split
from training.disk import make_folder
from training.evaluate.held_out import HeldOutSet, ModelEvaluation, evaluate_model, warn_of_too_few
from training.evaluate.map_pictures import MAPS_FILE, draw_maps, maps_page
from training.evaluate.metrics import auroc
from training.evaluate.predictions import NetworkOutputs
from training.evaluate.scope import caught, other_pictures
from training.fit.checkpoint import read_checkpoint
from training.fit.distance import update_distance
from training.fit.features import BATCH, features_key
from training.fit.inputs import TrainingInputs
from training.fit.learner import COMPONENTS, InitialWeights, Learner
from training.fit.precisions import PrecisionComparison
from training.fit.stages import CHECKPOINT, TrainingIndices, fit, on_gpu, predict
from training.package import DRAFT_PREFIX, export_graph, stored_weights, write_model_package
from training.progress import Progress
from training.report_page import write_report
from xray.errors import UsageError
from xray.images.preprocessing import Preprocessing
from xray.network.engine import padded_batches
from xray.network.keras_engine import compile_forward, prepare_backend
from xray.network.package import ModelPackage, load_package
from xray.vocabulary import count

CACHE, PREDICTIONS = "cache", "predictions.csv"


def train(config: TrainingConfig) -> tuple[ModelPackage, ModelEvaluation | None]:
    """Train a model package and evaluate it on images that the network was not trained on.

    An interrupted run continues from its last epoch when it is called again with the same configuration. A finished run
    returns its package at once.

    Parameters
    ----------
    config : TrainingConfig
        Recipe, data, initial weights and output folder.

    Returns
    -------
    package : ModelPackage
        The package as written and loaded again.
    evaluation : ModelEvaluation or None
        Thresholds, calibration and metrics; None if the run had already finished.

    Raises
    ------
    UsageError
        If data, split or weights cannot be used, or ``out`` holds another run or its package.
    TrainingFailure
        If the loss is not a number.
    StorageOutage
        If the disk is full.
    """
    recipe, progress = config.recipe, Progress()
    with _lock(config.out):
        _require_same_command(config)
        _delete_partial_files(config)
        _set_up_keras(config)
        for line in (*str(recipe).splitlines(), ""):
            progress.say(line)

        _check_dataset(config, progress)
        learner = Learner(recipe, config.initial_weights)
        preprocessing = Preprocessing(recipe.input_size, recipe.geometry)
        others = other_pictures(config.unlike, preprocessing)
        dataset, images, unreadable = load_images(config.dataset, preprocessing, config.out / CACHE, progress)
        progress.say(f"unreadable images, left out: {_counts_text(unreadable)}")
        split = _choose_split(config, dataset, progress)
        _require_no_leakage(config.initial_weights, dataset, split)
        # Before the training, which may take hours, as well as after it.
        if warning := warn_of_too_few(dataset if split is None else split.part(dataset, Role.VALIDATION)):
            progress.say(f"WARNING: {warning}")

        folder = config.out / f"{recipe.package_name}.run"
        fingerprint = run_fingerprint(config, dataset, learner, features_key(images, learner))
        if config.package_path.exists():
            return _finished_package(config, folder, fingerprint), None

        inputs = TrainingInputs(dataset, images, learner, config.out / CACHE, progress)
        with tempfile.TemporaryDirectory(prefix=DRAFT_PREFIX, dir=config.out) as draft:
            precisions = None
            if config.graph:
                precisions = PrecisionComparison(export_graph(recipe, learner, Path(draft)), dataset, images, progress)
            if split is None:
                tuning = test = _fit_with_folds(learner, inputs, folder, fingerprint, precisions, progress)
            else:
                tuning, test = _fit_with_split(learner, inputs, split, folder, fingerprint, precisions, progress)
            evaluation = evaluate_model(tuning, test, preprocessing, COMPONENTS)
            evaluation = _with_other_pictures(evaluation, learner, others)
            evaluation.predictions.write(config.out / PREDICTIONS)
            if evaluation.pointing:
                _write_maps(config, test, evaluation, preprocessing, progress)
            package = write_model_package(
                config, learner, evaluation, dataset, _counts_text(unreadable), split, precisions
            )
    return package, evaluation


def _write_maps(
    config: TrainingConfig,
    test: HeldOutSet,
    evaluation: ModelEvaluation,
    preprocessing: Preprocessing,
    progress: Progress,
) -> None:
    """Draw held-out maps beside the marked findings, to be looked at before the model is used."""
    recipe, dataset = config.recipe, test.dataset
    page = maps_page(
        f"{recipe.name} {recipe.version} on {dataset.terms.name}",
        dataset.finding,
        f"The networks that drew these maps were not trained on these images: {test.how}.",
        evaluation.pointing,
        draw_maps(
            dataset,
            test.outputs.cams,
            evaluation.predictions.probabilities,
            preprocessing,
            evaluation.heat_map_scale,
        ),
    )
    write_report(config.out, {MAPS_FILE: page})
    progress.say(f"held-out maps beside the marked findings: {config.out / MAPS_FILE}")


def _with_other_pictures(
    evaluation: ModelEvaluation, learner: Learner, others: Mapping[str, NDArray[np.uint8]]
) -> ModelEvaluation:
    """Add which shares of pictures of other things the final network finds unlike its training images."""
    forward = compile_forward(learner.inference_model, BATCH)

    def distances_of(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([forward(batch)[2][: len(pictures[at])] for at, batch in padded_batches(pictures, BATCH)])

    distance = evaluation.distance
    shares = (*distance.shares, *caught(distances_of, others, distance.threshold))
    return replace(evaluation, distance=replace(distance, shares=shares))


def _fit_with_split(
    learner: Learner,
    inputs: TrainingInputs,
    split: Split,
    folder: Path,
    fingerprint: str,
    precisions: PrecisionComparison | None,
    progress: Progress,
) -> tuple[HeldOutSet, HeldOutSet]:
    """Fit on the training part; return the held-out sets for choosing thresholds and for measuring."""
    parts = {role: split.mask(inputs.dataset, role) for role in Role}
    indices = {role: np.flatnonzero(mask) for role, mask in parts.items()}
    for_fit = TrainingIndices(indices[Role.TRAIN], indices[Role.VALIDATION])
    fit(learner, inputs, for_fit, folder, fingerprint, progress)
    update_distance(learner, inputs, for_fit.train, progress)
    held_out = {
        role: HeldOutSet(
            inputs.dataset.select(parts[role]), predict(learner, inputs, indices[role], progress), f"{role} part"
        )
        for role in (Role.VALIDATION, Role.TEST)
        if len(indices[role])
    }
    if precisions is not None:
        measured = indices[Role.TEST if Role.TEST in held_out else Role.VALIDATION]
        precisions.measure(stored_weights(learner), indices[Role.TRAIN], measured)
    validation = held_out[Role.VALIDATION]
    # Without a test part, the metrics are of the images that decided early stopping, and the card says so.
    return validation, held_out.get(Role.TEST, replace(validation, how="validation part, also used for early stopping"))


def _fit_with_folds(
    learner: Learner,
    inputs: TrainingInputs,
    folder: Path,
    fingerprint: str,
    precisions: PrecisionComparison | None,
    progress: Progress,
) -> HeldOutSet:
    """Cross-validate, then fit on all images; return the out-of-fold predictions.

    A fold's images decide nothing in its training, not even when it stops.
    """
    recipe, dataset = learner.recipe, inputs.dataset
    folds = assign_folds(dataset.labels, dataset.groups, recipe.folds, recipe.seed)
    out_of_fold = []
    for fold in range(recipe.folds):
        name = f"fold {fold + 1}/{recipe.folds}"
        train, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        progress.say(f"{name}: {len(train):,} training images, {len(held_out):,} held-out images")
        learner.reset()
        fit(learner, inputs, TrainingIndices(train), folder / f"fold{fold + 1}", f"{fingerprint} {fold}", progress)
        update_distance(learner, inputs, train, progress)
        outputs = predict(learner, inputs, held_out, progress)
        out_of_fold.append((held_out, outputs))
        progress.say(f"{name}: AUROC {auroc(dataset.labels[held_out], outputs.logits):.4f}")
        if precisions is not None:
            precisions.measure(stored_weights(learner), train, held_out)

    progress.say("final model: training on all images")
    learner.reset()
    everything = TrainingIndices(np.arange(len(dataset)))
    fit(learner, inputs, everything, _final_run(folder, folds=True), fingerprint, progress)
    update_distance(learner, inputs, everything.train, progress)
    if precisions is not None:
        precisions.quantize(stored_weights(learner), everything.train)
    return HeldOutSet(dataset, NetworkOutputs.join(out_of_fold), "out of fold")


def _check_dataset(config: TrainingConfig, progress: Progress) -> None:
    """Describe the data, and refuse unusable ones before the first image is decoded."""
    dataset = config.dataset
    progress.say(f"{dataset.terms.name}: {_describe(dataset)}")
    for note in dataset.notes:
        progress.say(f"note: {note}")
    dataset.require_both_classes("the data")
    if config.split and not config.recipe.folds:
        for role in (Role.TRAIN, Role.VALIDATION):
            config.split.part(dataset, role)


def _choose_split(config: TrainingConfig, dataset: Dataset, progress: Progress) -> Split | None:
    """Return the split to train with, or None for cross-validation."""
    recipe = config.recipe
    if recipe.folds:
        dataset.require_both_classes("the data")
        return None
    split = config.split or make_split(dataset, validation=recipe.validation, test=recipe.test, seed=recipe.seed)
    for role in Role:
        part = dataset.select(split.mask(dataset, role))
        if len(part) or role is not Role.TEST:
            part.require_both_classes(f"the {role} part")
            progress.say(f"{role}: {_describe(part)}")
    return split


def _require_no_leakage(initial_weights: InitialWeights, dataset: Dataset, split: Split | None) -> None:
    """Refuse initial weights that were trained on images to be held out."""
    if not isinstance(initial_weights, ModelPackage):
        return
    held_out = dataset if split is None else dataset.select(~split.mask(dataset, Role.TRAIN))
    leakage = check_leakage(initial_weights, held_out)
    if leakage.verdict is LeakageVerdict.TRAINED_ON:
        raise UsageError(
            f"the weights of {initial_weights.path} cannot be used, because images to be held out are among its "
            f"training images. {leakage.text} Use the split that it was trained with (--split), or other weights"
        )


def _set_up_keras(config: TrainingConfig) -> None:
    """Set precision, random seeds and determinism before a network is built."""
    prepare_backend()
    keras.config.set_dtype_policy("mixed_float16" if on_gpu() else "float32")
    keras.utils.set_random_seed(config.recipe.seed)
    if config.deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def run_fingerprint(config: TrainingConfig, dataset: Dataset, learner: Learner, features: str) -> str:
    """Hash everything that decides the outcome, so that a run never continues another run's checkpoint."""
    recipe = replace(config.recipe, command="", data="", measured="")
    split = config.split and config.split.to_csv()
    versions = [keras.config.dtype_policy().name]
    versions += [importlib.metadata.version(name) for name in ("keras", keras.backend.backend(), "numpy")]
    annotations = [example.annotations for example in dataset.examples]
    digest = hashlib.sha256(repr((recipe, features, split, config.deterministic, versions, annotations)).encode())
    for array in (dataset.labels, dataset.groups, dataset.body_parts, *learner.initial_values()):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _require_same_command(config: TrainingConfig) -> None:
    """Refuse an existing package of a different command before time is spent on reading the data."""
    if config.package_path.exists():
        made_by = load_package(config.package_path).card.command
        if made_by != config.command:
            raise UsageError(
                f"{config.package_path} exists and was made by a different command ({made_by}): choose a "
                "different --out"
            )


def _finished_package(config: TrainingConfig, folder: Path, fingerprint: str) -> ModelPackage:
    """Return the existing package if it was made by a run with this fingerprint."""
    checkpoint = _final_run(folder, folds=config.recipe.folds > 0) / CHECKPOINT
    try:
        state = read_checkpoint(checkpoint, fingerprint)
    except UsageError as error:
        raise UsageError(
            f"{config.package_path} exists and was made with a different recipe, data, weights or library version: "
            "choose a different --out"
        ) from error
    if state is None:
        raise UsageError(
            f"{config.package_path} exists, but the checkpoint of its run is missing ({checkpoint}): choose "
            "a different --out"
        )
    return load_package(config.package_path)


def _final_run(folder: Path, *, folds: bool) -> Path:
    """Return the folder of the run that gives the package's weights."""
    return folder / "all" if folds else folder


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Lock the output folder, so that two runs do not write the same files."""
    make_folder(out)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another training run is using {out}: wait until it ends, or choose a different --out"
            ) from error
        yield


def _delete_partial_files(config: TrainingConfig) -> None:
    """Delete files that a killed run left unfinished and that no run continues."""
    for partial in (config.out / CACHE).glob("*.images.*.part"):
        partial.unlink()
    for folder in (*config.out.glob(f".{config.recipe.package_name}-*"), *config.out.glob(f"{DRAFT_PREFIX}*")):
        shutil.rmtree(folder)


def _counts_text(unreadable: Mapping[str, int]) -> str:
    by_count = sorted(unreadable.items(), key=lambda item: item[1], reverse=True)
    return ", ".join(f"{reason} {number}" for reason, number in by_count) or "none"


def _describe(dataset: Dataset) -> str:
    groups, studies = len(np.unique(dataset.groups)), len(np.unique(dataset.studies))
    return (
        f"{count(len(dataset), 'image')}, {int(dataset.labels.sum()):,} positive ({dataset.finding}), "
        f"{count(studies, 'study')}, {count(groups, 'group')}"
    )
