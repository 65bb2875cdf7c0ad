"""The OpenVINO engine: runs a network on CPUs, without TensorFlow."""

import threading
import weakref

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from xray.cpus import usable_cpus
from xray.errors import PackageError
from xray.network.engine import Inference, padded_batches
from xray.vocabulary import Precision

FORWARD_BATCH = 1
"""Images in a batch. Single images on parallel streams are the fastest on a CPU (measured, docs/performance.md)."""

CHECK_SECONDS = 10.0
"""An image that takes longer has probably failed."""

# Rounded values of a quantized graph are computed in 8 bits whatever the hint, and all else in float32.
_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16", Precision.INT8: "f32"}


def cpu_options(precision: Precision, threads: int) -> dict[str, str | int]:
    """Return the options that OpenVINO compiles a graph for a CPU with."""
    return {
        # CPUs that have bfloat16 would use it by default, whatever the model version says.
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        # OpenVINO itself would count the cores of the host, also in a container with a smaller share.
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
    }


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
        If OpenVINO cannot compile the graph, or its outputs are not logits, CAMs and perhaps distances.
    """

    name = "openvino"
    batch = FORWARD_BATCH

    def __init__(self, model: ov.Model, precision: Precision = Precision.FP32, threads: int | None = None) -> None:
        self.precision = precision
        threads = threads or usable_cpus()
        try:
            size = model.input(0).get_partial_shape()[1].get_length()
            model.reshape([FORWARD_BATCH, size, size])
            compiled = ov.Core().compile_model(model, "CPU", cpu_options(precision, threads))
        except RuntimeError as error:
            raise PackageError(f"OpenVINO cannot load the graph: {str(error).splitlines()[0]}") from error
        shapes = [tuple(output.shape) for output in compiled.outputs]
        if [len(shape) for shape in shapes] not in ([1, 3], [1, 3, 1]):
            raise PackageError(f"the graph's outputs {shapes} are not logits, CAMs and perhaps distances")
        self._map_shape, self._distances = shapes[1][1:], len(shapes) > 2
        self._queue = ov.AsyncInferQueue(compiled, threads)
        self._queue.set_callback(_copy_outputs)
        # A callback that still runs when the interpreter shuts down would abort the process.
        weakref.finalize(self, self._queue.wait_all)

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        """Run the network; see :meth:`xray.network.engine.Engine.infer`."""
        return self.submit(images).result()

    def submit(self, images: NDArray[np.uint8]) -> "_Pending":
        """Start to run the network; see :meth:`xray.network.engine.Engine.submit`."""
        pending = _Pending(self, Inference.empty(len(images), self._map_shape, distances=self._distances))
        for rows, batch in padded_batches(images, FORWARD_BATCH):
            self._queue.start_async({0: batch}, (pending, rows))
        return pending

    def raise_error(self) -> None:
        """Wait for all images that were submitted, and raise OpenVINO's RuntimeError if one failed."""
        self._queue.wait_all()


class _Pending:
    """Images in the queue; OpenVINO's threads fill in their outputs."""

    def __init__(self, engine: OpenVINOEngine, outputs: Inference) -> None:
        # Weak: the queue keeps the last arguments of its callback, and would never be deleted if these led back to it.
        self._engine = weakref.ref(engine)
        self._outputs = outputs
        self._left = len(outputs.logits)
        self._lock = threading.Lock()
        self._done = threading.Event()
        if not self._left:
            self._done.set()

    def copy(self, request: ov.InferRequest, rows: slice) -> None:
        """Copy the outputs of one finished request."""
        count = rows.stop - rows.start
        for index, output in enumerate(self._outputs.named().values()):
            output[rows] = request.get_output_tensor(index).data[:count]
        with self._lock:
            self._left -= count
            if not self._left:
                self._done.set()

    def result(self) -> Inference:
        """Wait for the outputs; raises OpenVINO's RuntimeError if it failed."""
        while not self._done.wait(CHECK_SECONDS):
            # A request that failed makes no callback.
            if (engine := self._engine()) is not None:
                engine.raise_error()
        return self._outputs


def _copy_outputs(request: ov.InferRequest, of: tuple[_Pending, slice]) -> None:
    pending, rows = of
    pending.copy(request, rows)
