"""A real model package small enough for every test: the whole path, a fast backbone, random weights.

``python -m tests.tiny PATH SEED GRAPH FINER_MAP`` writes one; Keras runs there on its OpenVINO backend, so the tests'
own process needs neither TensorFlow nor a Keras backend.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from xray.network.card import (
    SCHEMA,
    Calibration,
    Card,
    Distance,
    FeaturePyramid,
    LowerPrecision,
    Metric,
    Threshold,
    TrainingData,
)
from xray.network.package import Golden, ModelPackage, load_package, write_package
from xray.vocabulary import Precision

BACKBONE = "MobileNet"
SIZE = 64
HEAD = (8, 4)
FINER_MAP = FeaturePyramid("conv_pw_11_relu", 16)
TOLERANCE = 0.2
"""Of the golden outputs in lower precisions."""

CARD = Card(
    schema=SCHEMA,
    name="tiny",
    version="1",
    backbone=BACKBONE,
    head=HEAD,
    pyramid=None,
    finding="fracture",
    wording="positive: fracture",
    body_parts=("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST"),
    modalities=("CR", "DX", "RG"),
    input_size=SIZE,
    preprocessing=f"gray8-pad-{SIZE}-bilinear-1",
    image_threshold=Threshold(0.5, "random weights"),
    study_threshold=Threshold(0.5, "random weights"),
    calibration=Calibration(1.0, 0.0),
    distance=Distance(5, 100.0, "random weights", ()),
    heat_map_scale=1.0,
    training_data=(TrainingData("none", "random weights", "none", "none", "none"),),
    metrics=(Metric("auroc", "none", 0.5, 0.4, 0.6),),
    precisions=(),
    limits=("random weights: for tests only",),
    command="python -m tests.tiny",
    files={},
)


def write_tiny_package(path: Path, seed: int = 0, *, graph: bool = False, finer_map: bool = False) -> ModelPackage:
    """Write a tiny real model package at ``path``; another seed gives other weights.

    Its CAM has 2 x 2 cells, with ``finer_map`` 4 x 4.

    With its OpenVINO graph, no process that loads it derives one, which takes more than the screening of most tests.
    """
    subprocess.run(
        [sys.executable, "-m", "tests.tiny", str(path), str(seed), str(int(graph)), str(int(finer_map))],
        env={**os.environ, "KERAS_BACKEND": "openvino", "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parent.parent,
        check=True,
    )
    return load_package(path)


def _write(path: Path, seed: int, holds_graph: bool, finer_map: bool) -> None:
    import openvino as ov

    from xray.network.builder import build_network, network_weights
    from xray.network.openvino_graph import GRAPH_FILE, GRAPH_WEIGHTS_FILE, write_graph
    from xray.network.package import round_to_storage

    rng = np.random.default_rng(seed)
    pyramid = FINER_MAP if finer_map else None
    network = build_network(BACKBONE, SIZE, HEAD, pyramid, components=CARD.components)
    for variable in network.weights:
        variable.assign(round_to_storage(random_weight(variable.name, tuple(variable.shape), rng)))
    images = np.kron(rng.integers(0, 256, (8, 4, 4), np.uint8), np.ones((1, SIZE // 4, SIZE // 4), np.uint8))
    with tempfile.TemporaryDirectory() as name:
        exported = Path(name) / "exported.xml"
        network.export(str(exported), format="openvino", verbose=False)
        compiled = ov.Core().compile_model(exported, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        logits, cams, distances = (np.array(output) for output in compiled(images).values())
        # probabilities of about 0.1 to 0.9, so that both labels occur
        slope = 1.5 / float(logits.std())
        card = replace(CARD, pyramid=pyramid, calibration=Calibration(slope, -slope * float(np.median(logits))))
        contents = {"weights": network_weights(network), "golden": Golden(images, logits, cams, 1e-3, distances)}
        extra = {}
        if holds_graph:
            draft = write_package(Path(name) / "draft", card, **contents, readme="# Tiny, a draft\n")
            write_graph(draft.path, Path(name) / GRAPH_FILE)
            extra = {file: (Path(name) / file).read_bytes() for file in (GRAPH_FILE, GRAPH_WEIGHTS_FILE)}
        write_package(path, card, **contents, readme="# Tiny, for tests\n", extra=extra)


def write_quantized_package(path: Path, package: ModelPackage) -> ModelPackage:
    """Write a package again, with its INT8 quantization and a card that allows every precision.

    It does whatever this machine's processor has, so that tests of screening need no processor of a certain kind.
    """
    import openvino as ov

    from training.fit.quantize import find_quantization
    from training.progress import Progress
    from xray.network.int8 import INT8_FILE, quantization_bytes, quantize_graph
    from xray.network.openvino_engine import OpenVINOEngine
    from xray.network.openvino_graph import GRAPH_FILE, GRAPH_WEIGHTS_FILE, derive_graph, read_graph

    graph, _ = derive_graph(package, path.with_name("graphs"))
    found = find_quantization(lambda: read_graph(graph, package.weights_path), some_images(32), Progress())

    def model(precision: Precision) -> ov.Model:
        read = read_graph(graph, package.weights_path)
        if precision is Precision.INT8:
            quantize_graph(read, found)
        return read

    golden, lower_golden = package.golden(), {}
    for precision in (Precision.BF16, Precision.INT8):
        outputs = OpenVINOEngine(model(precision), precision).infer(golden.images)
        lower_golden[precision] = Golden(golden.images, outputs.logits, outputs.cams, TOLERANCE, outputs.distances)
    return write_package(
        path,
        replace(package.card, precisions=tuple(map(_allowed, lower_golden))),
        weights=stored_weights(package),
        golden=golden,
        readme="# Tiny, in every precision\n",
        lower_golden=lower_golden,
        extra={
            **{name: graph.with_name(name).read_bytes() for name in (GRAPH_FILE, GRAPH_WEIGHTS_FILE)},
            INT8_FILE: quantization_bytes(found),
        },
    )


def _allowed(precision: Precision) -> LowerPrecision:
    return LowerPrecision(str(precision), TOLERANCE, "random images", 0.5, 0.5, 1.0, 0.0, 0.0, None, None, None)


def some_images(count: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Draw images of eight by eight random fields."""
    rng = np.random.default_rng(3)
    return np.kron(rng.integers(0, 256, (count, 8, 8), np.uint8), np.ones((1, size // 8, size // 8), np.uint8))


def stored_weights(package: ModelPackage) -> list[NDArray[np.float32]]:
    """Read a package's weights as they are stored."""
    with h5py.File(package.weights_path) as file:
        return [file[str(index)][...].astype(np.float32) for index in range(len(file))]


def random_weight(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a weight under which a deep network still tells its inputs apart."""
    if name in ("gamma", "moving_variance", "scale", "basis_scale", "rest_scale"):
        return np.ones(shape, np.float32)
    if len(shape) == 1:
        return np.full(shape, 0.1 if name.startswith("bias") else 0.0, np.float32)
    # a depthwise kernel (3, 3, channels, 1) sums over 3 x 3 only
    fan_in = np.prod(shape[:2] if len(shape) == 4 and shape[-1] == 1 else shape[:-1])
    return rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)


if __name__ == "__main__":
    _write(Path(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3])), bool(int(sys.argv[4])))
