"""The Keras engine: runs a network on a GPU or CPU, with TensorFlow, or with JAX when ``KERAS_BACKEND=jax``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from xray.errors import UsageError
from xray.network.builder import load_network
from xray.network.engine import Inference, jax_has_gpu, padded_batches
from xray.network.package import ModelPackage
from xray.vocabulary import Precision

CPU_BATCH = 16
GPU_BATCH = 128

Forward = Callable[[NDArray[Any]], tuple[NDArray[np.float32], ...]]


class KerasEngine:
    """A package's network as one compiled function of fixed shape.

    Parameters
    ----------
    package : ModelPackage
        The model.
    precision : Precision
        ``FP32``, or ``BF16``: Keras' dtype policy ``mixed_bfloat16`` for the backbone; the head stays in float32.
    threads : int, optional
        CPU threads to use; TensorFlow takes the number only before its first operation.

    Raises
    ------
    PackageError
        If the weights do not fit the network.
    UsageError
        If Keras' backend is neither TensorFlow nor JAX, or the precision is INT8.
    """

    name = "keras"

    def __init__(
        self, package: ModelPackage, precision: Precision = Precision.FP32, threads: int | None = None
    ) -> None:
        if precision is Precision.INT8:
            raise UsageError("the keras engine does not compute int8; set BONESCREEN_ENGINE=openvino")
        self.precision: Precision = precision
        on_gpu = prepare_backend(threads)
        self.batch = GPU_BATCH if on_gpu else CPU_BATCH
        with _dtype_policy("mixed_bfloat16" if precision is Precision.BF16 else "float32"):
            network = load_network(package)
        self._map_shape = tuple(network.outputs[1].shape[1:])
        self._distances = len(network.outputs) > 2
        self._run = _compile(network, self.batch)

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        """Run the network; see :meth:`xray.network.engine.Engine.infer`."""
        return self.submit(images).result()

    def submit(self, images: NDArray[np.uint8]) -> "_Pending":
        """Start to run the network; see :meth:`xray.network.engine.Engine.submit`.

        On a GPU, TensorFlow and JAX return before the outputs are computed.
        """
        return _Pending(
            [(rows, self._run(batch)) for rows, batch in padded_batches(images, self.batch)],
            Inference.empty(len(images), self._map_shape, distances=self._distances),
        )


class _Pending:
    """Batches whose outputs the device is computing."""

    def __init__(self, batches: list[tuple[slice, Any]], outputs: Inference) -> None:
        self._batches, self._outputs = batches, outputs

    def result(self) -> Inference:
        """Wait for the outputs and copy them from the device."""
        for rows, computed in self._batches:
            for output, values in zip(self._outputs.named().values(), computed, strict=True):
                output[rows] = np.asarray(values, np.float32)[: rows.stop - rows.start]
        return self._outputs


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Build layers under a dtype policy within the block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def prepare_backend(threads: int | None = None) -> bool:
    """Set Keras' backend up for float32, and say whether it has a GPU.

    GPU memory is allocated as needed. TF32 is turned off: it keeps 10 bits of the mantissa, and the model version says
    fp32.

    Parameters
    ----------
    threads : int, optional
        CPU threads to use; TensorFlow takes the number only before its first operation.

    Returns
    -------
    bool
        Whether the backend has a GPU.

    Raises
    ------
    UsageError
        If the backend is neither TensorFlow nor JAX.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
        gpus = tf.config.list_physical_devices("GPU")
        try:
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
            if threads:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError:
            # TensorFlow has already started in this process, and keeps its first settings.
            return bool(gpus)
        return bool(gpus)
    if backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
        return jax_has_gpu()
    raise UsageError(f"the keras engine needs TensorFlow or JAX; KERAS_BACKEND is {backend}")


def compile_forward(network: keras.Model, batch: int) -> Forward:
    """Compile a network for batches of one fixed size.

    ``model.predict`` would leak memory when called in a loop.

    Parameters
    ----------
    network : keras.Model
        Any network with one input.
    batch : int
        The batch size.

    Returns
    -------
    callable
        Takes an array of ``batch`` inputs, and returns a tuple of the outputs as float32 arrays.
    """
    run = _compile(network, batch)

    def forward(images: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
        outputs = run(images)
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        return tuple(np.asarray(output, np.float32) for output in outputs)

    return forward


def _compile(network: keras.Model, batch: int) -> Callable[[NDArray[Any]], Any]:
    """Compile a network for batches of one size; the function returns the backend's tensors."""
    shape = (batch, *network.inputs[0].shape[1:])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec(shape, network.inputs[0].dtype)])  # type: ignore[untyped-decorator]
        def run(images: Any) -> Any:
            return network(images, training=False)

        compiled: Callable[[NDArray[Any]], Any] = run
    else:
        import jax

        variables = [variable.value for variable in network.trainable_variables]
        fixed = [variable.value for variable in network.non_trainable_variables]

        @jax.jit  # type: ignore[untyped-decorator]
        def run_stateless(trainable: Any, rest: Any, images: Any) -> Any:
            return network.stateless_call(trainable, rest, images, training=False)[0]

        def compiled(images: NDArray[Any]) -> Any:
            return run_stateless(variables, fixed, images)

    return compiled
