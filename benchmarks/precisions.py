"""What the lower precisions lose on images that a network was not trained on, and a package's copy that allows them.

    python -m benchmarks.precisions FRACATLAS WEIGHTS OUT --package fracture-4 --copy NEW --version 5

``OUT`` is the ``--out`` of ``bonescreen train fracture``: the networks of its finished folds are quantized with some of
their training images and measured on their held-out images. The copy of the package has its weights, metrics and
thresholds, this comparison, an OpenVINO graph and an INT8 quantization by images of all folds.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from training.card import make_readme
from training.config import TrainingConfig
from training.data.images import load_images
from training.data.leakage import TRAINING_IMAGES_FILE
from training.data.read_dataset import read_dataset
from training.data.split import assign_folds
from training.fit.checkpoint import read_checkpoint
from training.fit.features import features_key
from training.fit.inputs import TrainingInputs
from training.fit.learner import Learner
from training.fit.precisions import PrecisionComparison, is_allowed
from training.fit.stages import CHECKPOINT, TrainingIndices, fit
from training.package import export_graph, stored_weights
from training.progress import Progress
from training.recipes import find_recipe
from training.train import CACHE, run_fingerprint
from xray.images.preprocessing import Preprocessing
from xray.network.keras_engine import prepare_backend
from xray.network.package import load_package, read_weights, write_package


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--package", default="fracture-4")
    parser.add_argument("--copy", type=Path, required=True)
    parser.add_argument("--version", required=True)
    chosen = parser.parse_args()
    prepare_backend()
    progress, recipe = Progress(), find_recipe("fracture")
    config = TrainingConfig(recipe, read_dataset(chosen.data), chosen.weights, chosen.out, command="")
    learner = Learner(recipe, chosen.weights)
    dataset, images, _ = load_images(
        config.dataset, Preprocessing(recipe.input_size, recipe.geometry), chosen.out / CACHE, progress
    )
    inputs = TrainingInputs(dataset, images, learner, chosen.out / CACHE, progress)
    fingerprint = run_fingerprint(config, dataset, learner, features_key(images, learner))
    folds = assign_folds(dataset.labels, dataset.groups, recipe.folds, recipe.seed)
    package = load_package(chosen.package)
    with h5py.File(package.weights_path) as file:
        shapes = [file[str(index)].shape for index in range(len(file))]
    weights = read_weights(package.weights_path, shapes)
    with tempfile.TemporaryDirectory() as folder:
        comparison = PrecisionComparison(export_graph(recipe, learner, Path(folder)), dataset, images, progress)
        measured = []
        for fold in range(recipe.folds):
            run = chosen.out / f"{recipe.package_name}.run" / f"fold{fold + 1}"
            state = read_checkpoint(run / CHECKPOINT, f"{fingerprint} {fold}")
            if state is None or state.stage < len(recipe.stages):
                continue
            train, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            learner.reset()
            fit(learner, inputs, TrainingIndices(train), run, f"{fingerprint} {fold}", progress)
            comparison.measure(stored_weights(learner), train, held_out)
            measured.append(str(fold + 1))
        comparison.quantize(weights, np.arange(len(dataset)))
        card = package.card
        how = f"out of fold ({'fold' if len(measured) == 1 else 'folds'} {', '.join(measured)} of {recipe.folds})"
        lower = comparison.compare(card.calibration, card.image_threshold.value, how)
        card = replace(card, version=chosen.version, precisions=tuple(filter(is_allowed, lower)))
        tables = {TRAINING_IMAGES_FILE: (package.path / TRAINING_IMAGES_FILE).read_bytes()}
        write_package(
            chosen.copy,
            card,
            weights=weights,
            golden=package.golden(),
            readme=make_readme(card),
            lower_golden=comparison.golden(package.golden().images),
            extra={**tables, **comparison.files()},
        )


if __name__ == "__main__":
    main()
