"""What a network loses in lower precisions on held-out images, and which ones a package allows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.evaluate.held_out import ModelEvaluation
from training.evaluate.metrics import auroc
from training.evaluate.pointing import measure_pointing
from training.evaluate.predictions import NetworkOutputs, infer_outputs
from training.fit.quantize import CALIBRATION_IMAGES, find_quantization
from training.progress import Progress
from xray.images.preprocessing import Preprocessing
from xray.network.card import LowerPrecision
from xray.network.int8 import INT8_FILE, Quantization, quantization_bytes, quantize_graph
from xray.network.openvino_engine import OpenVINOEngine
from xray.network.openvino_graph import GRAPH_FILE, GRAPH_WEIGHTS_FILE, read_graph
from xray.network.package import WEIGHTS_FILE, Golden, write_weights
from xray.network.precision import computable_precisions, cpu_flags
from xray.vocabulary import Precision

MAX_AUROC_LOSS = 0.005
"""A package allows a precision whose AUROC on held-out images is lower than float32's by at most this."""

GOLDEN_TOLERANCES = {Precision.BF16: 0.25, Precision.INT8: 0.1}
"""In logits. Measured on the golden images of fracture-4: bfloat16 by AVX-512's instructions, emulated, and by
TensorFlow differ by up to 0.11, INT8 on CPUs with VNNI not at all, INT8 where products of 8 bits overflow by 1.03. On
those of fracture-5, bfloat16 by AVX-512's instructions and by TensorFlow differ by 0.17, and the CAMs of half of them
by at most 0.14 of their mean; of a CAM that is transposed or mirrored it is over 0.7."""


class PrecisionComparison:
    """Runs the networks of a training in each precision that this machine computes.

    Parameters
    ----------
    graph : Path
        The networks' OpenVINO graph; its folder is used for their weights.
    dataset : Dataset
        All N examples.
    images : ndarray of uint8, (N, size, size)
        Their images, preprocessed.
    progress : Progress
        Shows progress bars.
    """

    def __init__(self, graph: Path, dataset: Dataset, images: NDArray[np.uint8], progress: Progress) -> None:
        self._graph, self._dataset, self._images, self._progress = graph, dataset, images, progress
        self._weights = graph.with_name(WEIGHTS_FILE)
        self._quantization: Quantization = {}
        precisions = [each for each in Precision if each in computable_precisions(cpu_flags())]
        self._outputs: dict[Precision, list[tuple[NDArray[np.intp], NetworkOutputs]]] = {
            each: [] for each in precisions
        }

    def quantize(self, weights: Sequence[NDArray[np.float32]], train: NDArray[np.intp]) -> None:
        """Find the INT8 quantization of a network from some of its n training images."""
        write_weights(self._weights, weights)
        drawn = np.sort(np.random.default_rng(0).permutation(train)[:CALIBRATION_IMAGES])
        self._quantization = find_quantization(self._read, self._images[drawn], self._progress)

    def measure(
        self, weights: Sequence[NDArray[np.float32]], train: NDArray[np.intp], held_out: NDArray[np.intp]
    ) -> None:
        """Quantize a network with some of its n training images, and infer m held-out ones in each precision."""
        self.quantize(weights, train)
        with self._progress.bar("lower precisions", len(self._outputs) * len(held_out)) as advance:
            for precision, outputs in self._outputs.items():
                found = infer_outputs(self._engine(precision), self._images[held_out], advance)
                outputs.append((held_out, found))

    def compare(self, evaluation: ModelEvaluation, preprocessing: Preprocessing) -> list[LowerPrecision]:
        """Compare each lower precision with float32, on all images that were measured.

        Parameters
        ----------
        evaluation : ModelEvaluation
            Has calibration, image threshold and largest distance, and how the images were held out.
        preprocessing : Preprocessing
            How the images became the network's input.
        """
        places = np.sort(np.concatenate([places for places, _ in self._outputs[Precision.FP32]]))
        measured = np.isin(np.arange(len(self._dataset)), places)
        dataset = self._dataset.select(measured)
        population = (
            f"{dataset.terms.name}, images (n={len(dataset)}, positive {dataset.labels.sum()}), {evaluation.how}"
        )
        reference = NetworkOutputs.join(self._outputs[Precision.FP32])
        found = []
        for precision in self._outputs.keys() - {Precision.FP32}:
            outputs = NetworkOutputs.join(self._outputs[precision])
            difference = np.abs(outputs.logits - reference.logits)
            pointing, fp32_pointing = (
                measure_pointing(dataset, each.cams, preprocessing) for each in (outputs, reference)
            )
            lower = LowerPrecision(
                precision=str(precision),
                tolerance=GOLDEN_TOLERANCES[precision],
                population=population,
                auroc=round(auroc(dataset.labels, outputs.logits), 4),
                fp32_auroc=round(auroc(dataset.labels, reference.logits), 4),
                same_label=_share_alike(
                    *(
                        evaluation.calibration.apply(each.logits) >= evaluation.image_threshold.value
                        for each in (outputs, reference)
                    )
                ),
                mean_difference=round(float(difference.mean()), 4),
                largest_difference=round(float(difference.max()), 4),
                pointing_game=round(pointing[0].game.value, 4) if pointing else None,
                fp32_pointing_game=round(fp32_pointing[0].game.value, 4) if fp32_pointing else None,
                same_scope=_share_alike(
                    *(each.distances > evaluation.distance.threshold for each in (outputs, reference))
                ),
            )
            self._progress.say(
                f"{precision}: AUROC {lower.auroc:.4f} (float32 {lower.fp32_auroc:.4f}), same label "
                f"{100 * lower.same_label:.1f} %"
            )
            found.append(lower)
        return sorted(found, key=lambda each: each.precision)

    def golden(self, images: NDArray[np.uint8]) -> dict[Precision, Golden]:
        """Return the golden outputs in each lower precision of the network that was quantized last."""
        found = {}
        for precision in self._outputs.keys() - {Precision.FP32}:
            outputs = self._engine(precision).infer(images)
            found[precision] = Golden(
                images, outputs.logits, outputs.cams, GOLDEN_TOLERANCES[precision], outputs.distances
            )
        return found

    def files(self) -> dict[str, bytes]:
        """Return the files that a package needs for the network that was quantized last: graph and quantization."""
        graph = {name: self._graph.with_name(name).read_bytes() for name in (GRAPH_FILE, GRAPH_WEIGHTS_FILE)}
        return {**graph, INT8_FILE: quantization_bytes(self._quantization)}

    def _read(self) -> ov.Model:
        return read_graph(self._graph, self._weights)

    def _engine(self, precision: Precision) -> OpenVINOEngine:
        model = self._read()
        if precision is Precision.INT8:
            quantize_graph(model, self._quantization)
        return OpenVINOEngine(model, precision)


def _share_alike(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return round(float((one == other).mean()), 4)


def is_allowed(measured: LowerPrecision) -> bool:
    """Say whether a package allows a precision that was measured like this."""
    return measured.auroc >= measured.fp32_auroc - MAX_AUROC_LOSS
