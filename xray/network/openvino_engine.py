"""The OpenVINO engine: runs a network on CPUs, without TensorFlow."""

import os
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from xray.errors import PackageError
from xray.network.engine import Inference, padded_batches
from xray.network.package import ModelPackage

FORWARD_BATCH = 1
"""Images in a batch. Single images on parallel streams are the fastest on a CPU (measured, docs/model.md)."""


class OpenVINOEngine:
    """A package's network as an OpenVINO graph.

    Parameters
    ----------
    package : ModelPackage
        The model.
    graph : Path
        The package's graph, from :func:`xray.network.openvino_graph.derive_graph`.
    threads : int, optional
        CPU threads to use; all by default.

    Raises
    ------
    PackageError
        If OpenVINO cannot load the graph, or its outputs are not logits and CAMs.
    """

    name = "openvino"
    precision = "fp32"

    def __init__(self, package: ModelPackage, graph: Path, threads: int | None = None) -> None:
        size = package.card.input_size
        threads = threads or len(os.sched_getaffinity(0))
        core = ov.Core()
        try:
            model = core.read_model(graph)
            model.reshape([FORWARD_BATCH, size, size])
            compiled = core.compile_model(
                model,
                "CPU",
                # CPUs that have bfloat16 would use it by default, and the model version says fp32.
                {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads},
            )
        except RuntimeError as error:
            raise PackageError(f"{graph}: OpenVINO cannot load it: {str(error).splitlines()[0]}") from error
        shapes = [tuple(output.shape) for output in compiled.outputs]
        if [len(shape) for shape in shapes] != [1, 3]:
            raise PackageError(f"{graph}: outputs {shapes} are not logits and CAMs")
        self._map_shape = shapes[1][1:]
        self._queue = ov.AsyncInferQueue(compiled, threads)

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        """Run the network; see :meth:`xray.network.engine.Engine.infer`."""
        logits = np.empty(len(images), np.float32)
        cams = np.empty((len(images), *self._map_shape), np.float32)

        def copy_outputs(request: ov.InferRequest, rows: slice) -> None:
            count = rows.stop - rows.start
            logits[rows] = request.get_output_tensor(0).data[:count]
            cams[rows] = request.get_output_tensor(1).data[:count]

        self._queue.set_callback(copy_outputs)
        for rows, batch in padded_batches(images, FORWARD_BATCH):
            self._queue.start_async({0: batch}, rows)
        self._queue.wait_all()
        return Inference(logits, cams)
