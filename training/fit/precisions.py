"""What a network loses in lower precisions: its logits for held-out images in each, and which ones a package allows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.evaluate.metrics import auroc
from training.fit.quantize import CALIBRATION_IMAGES, find_quantization
from training.progress import Progress
from xray.network.card import Calibration, LowerPrecision
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
TensorFlow differ by up to 0.11, INT8 on CPUs with VNNI not at all, INT8 where products of 8 bits overflow by 1.03."""

CHUNK = 64


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
        self._logits = {each: np.full(len(images), np.nan, np.float32) for each in precisions}

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
        with self._progress.bar("lower precisions", len(self._logits) * len(held_out)) as advance:
            for precision, logits in self._logits.items():
                engine = self._engine(precision)
                for start in range(0, len(held_out), CHUNK):
                    chunk = held_out[start : start + CHUNK]
                    logits[chunk] = engine.infer(self._images[chunk]).logits
                    advance(len(chunk))

    def compare(self, calibration: Calibration, threshold: float, how: str) -> list[LowerPrecision]:
        """Compare each lower precision with float32, on all images that were measured.

        Parameters
        ----------
        calibration : Calibration
            From logits to probabilities.
        threshold : float
            The image threshold, a probability.
        how : str
            How the images were held out, such as ``"out of fold"``.
        """
        reference = self._logits[Precision.FP32]
        measured = np.isfinite(reference)
        labels, reference = self._dataset.labels[measured], reference[measured]
        population = f"{self._dataset.terms.name}, images (n={len(labels)}, positive {labels.sum()}), {how}"
        found = []
        for precision in self._logits.keys() - {Precision.FP32}:
            logits = self._logits[precision][measured]
            same = (calibration.apply(logits) >= threshold) == (calibration.apply(reference) >= threshold)
            difference = np.abs(logits - reference)
            lower = LowerPrecision(
                precision=str(precision),
                tolerance=GOLDEN_TOLERANCES[precision],
                population=population,
                auroc=round(auroc(labels, logits), 4),
                fp32_auroc=round(auroc(labels, reference), 4),
                same_label=round(float(same.mean()), 4),
                mean_difference=round(float(difference.mean()), 4),
                largest_difference=round(float(difference.max()), 4),
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
        for precision in self._logits.keys() - {Precision.FP32}:
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


def is_allowed(measured: LowerPrecision) -> bool:
    """Say whether a package allows a precision that was measured like this."""
    return measured.auroc >= measured.fp32_auroc - MAX_AUROC_LOSS
