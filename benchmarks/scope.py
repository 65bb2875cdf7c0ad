"""How well a network's features tell what is unlike its training images: false alarms, and what is caught.

    python -m benchmarks.scope PACKAGE FRACATLAS [FOLDER ...]

Takes the pooled features of FracAtlas, drawn pictures and the pictures in the folders from a package's network. The
distance is fitted on four fifths of FracAtlas and measured on the fifth, five times, whole groups in each; with the
network's own training images among them, that is optimistic. What a trained package's card says was measured with
networks that had not seen the images. The threshold is chosen on four of the five parts, and its false alarms are those
of the fifth.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from training.data.images import load_images
from training.data.read_dataset import read_dataset
from training.data.split import assign_folds
from training.evaluate.scope import choose_distance, other_pictures
from training.fit.distance import FittedDistance, fit_distance
from training.fit.learner import COMPONENTS
from training.progress import Progress
from xray.cpus import usable_cpus
from xray.images.preprocessing import Preprocessing
from xray.network.openvino_engine import cpu_options
from xray.network.openvino_graph import derive_graph, read_graph
from xray.network.package import ModelPackage, load_package
from xray.vocabulary import Precision

FOLDS, SEED = 5, 0
Features = NDArray[np.float32]


class FeatureNetwork:
    """A package's network as far as its pooled features."""

    def __init__(self, package: ModelPackage, cache: Path) -> None:
        graph, _ = derive_graph(package, cache)
        model = read_graph(graph, package.weights_path)
        pooling = next(node for node in reversed(model.get_ordered_ops()) if node.get_type_name() == "ReduceMean")
        model.add_outputs([pooling.output(0)])
        model.reshape([1, package.card.input_size, package.card.input_size])
        self._outputs = len(model.outputs)
        self._compiled = ov.Core().compile_model(model, "CPU", cpu_options(Precision.FP32, usable_cpus()))

    def features(self, images: NDArray[np.uint8], progress: Progress) -> Features:
        """Return pooled features ``(N, C)`` of images ``uint8 (N, size, size)``."""
        found = []
        with progress.bar("features", len(images)) as advance:
            for image in images:
                found.append(self._compiled(np.asarray(image)[None])[self._outputs - 1].reshape(-1).copy())
                advance(1)
        return np.stack(found)


def distances(features: Features, fitted: FittedDistance) -> NDArray[np.float64]:
    """Return distances ``(N,)`` of pooled features, as `xray.network.distance.FeatureDistance` computes them."""
    standardised = (features.astype(np.float64) - fitted.mean) * fitted.scale
    along = standardised @ fitted.basis
    left = np.maximum((standardised**2).sum(axis=1) - (along**2).sum(axis=1), 0)
    return np.asarray(np.sqrt((((along * fitted.basis_scale) ** 2).mean(axis=1) + left * fitted.rest_scale**2) / 2))


def main() -> None:
    """Print the shares beyond the threshold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("fracatlas", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    given, progress = parser.parse_args(), Progress()
    package = load_package(given.package)
    preprocessing = Preprocessing.from_id(package.card.preprocessing)
    others = other_pictures(given.folders, preprocessing)
    with tempfile.TemporaryDirectory() as folder:
        dataset, images, _ = load_images(read_dataset(given.fracatlas), preprocessing, Path(folder), progress)
        network = FeatureNetwork(package, Path(folder))
        features = network.features(images, progress)
        other_features = {name: network.features(pictures, progress) for name, pictures in others.items()}
    labels = dataset.labels
    folds = assign_folds(labels, dataset.groups, FOLDS, SEED)
    found = np.empty(len(dataset))
    for fold in range(FOLDS):
        fitted = fit_distance(features[folds != fold], labels[folds != fold], COMPONENTS)
        found[folds == fold] = distances(features[folds == fold], fitted)
    beyond = np.empty(len(dataset), np.bool_)
    for fold in range(FOLDS):
        beyond[folds == fold] = found[folds == fold] > choose_distance(found[folds != fold], COMPONENTS, "").threshold
    threshold = choose_distance(found, COMPONENTS, "").threshold
    print(f"threshold {threshold:.3f}, {COMPONENTS} components")
    print(f"false alarms: {beyond.mean():.2%} of {len(beyond)}, {beyond[labels].mean():.2%} of {labels.sum()} positive")
    for part in np.unique(dataset.body_parts):
        of_part = dataset.body_parts == part
        print(f"  {beyond[of_part].mean():.2%} of {of_part.sum()} of {part}")
    fitted = fit_distance(features, labels, COMPONENTS)
    for name, some in other_features.items():
        print(f"caught: {(distances(some, fitted) > threshold).mean():.1%} of {len(some)}, {name}")


if __name__ == "__main__":
    main()
