"""The OpenVINO engine: runs a network on CPUs, without TensorFlow."""

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from xray.cpus import usable_cpus
from xray.errors import PackageError
from xray.network.engine import Inference, padded_batches
from xray.vocabulary import Precision

FORWARD_BATCH = 1
"""Images in a batch. Single images on parallel streams are the fastest on a CPU (measured, docs/performance.md)."""

# Rounded values of a quantized graph are computed in 8 bits whatever the hint, and all else in float32.
_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16", Precision.INT8: "f32"}


class OpenVINOEngine:
    """A package's network as an OpenVINO graph.

    Parameters
    ----------
    model : openvino.Model
        From :func:`xray.network.openvino_graph.read_graph`; for INT8, quantized.
    precision : Precision
        What to compute it in.
    threads : int, optional
        CPU threads to use; by default as many as this process may.

    Raises
    ------
    PackageError
        If OpenVINO cannot compile the graph, or its outputs are not logits and CAMs.
    """

    name = "openvino"

    def __init__(self, model: ov.Model, precision: Precision = Precision.FP32, threads: int | None = None) -> None:
        self.precision = precision
        threads = threads or usable_cpus()
        try:
            size = model.input(0).get_partial_shape()[1].get_length()
            model.reshape([FORWARD_BATCH, size, size])
            compiled = ov.Core().compile_model(
                model,
                "CPU",
                {
                    # CPUs that have bfloat16 would use it by default, whatever the model version says.
                    "INFERENCE_PRECISION_HINT": _HINTS[precision],
                    # OpenVINO itself would count the cores of the host, also in a container with a smaller share.
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": threads,
                },
            )
        except RuntimeError as error:
            raise PackageError(f"OpenVINO cannot load the graph: {str(error).splitlines()[0]}") from error
        shapes = [tuple(output.shape) for output in compiled.outputs]
        if [len(shape) for shape in shapes] != [1, 3]:
            raise PackageError(f"the graph's outputs {shapes} are not logits and CAMs")
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
