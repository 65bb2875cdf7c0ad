"""EfficientNet-Lite2's weights from a PyTorch file, which is read without PyTorch and runs no code."""

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from training.fit.pytorch_weights import load_efficientnet_lite, read_tensors
from xray.errors import UsageError
from xray.network.efficientnet_lite import EfficientNetLite2


class _Rebuilt:
    """A tensor as PyTorch pickles it."""

    def __init__(self, key: str, values: NDArray[Any]) -> None:
        self.key, self.values = key, np.ascontiguousarray(values)

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(stride // self.values.itemsize for stride in self.values.strides)
        return _rebuild, (_Stored(self.key, self.values), 0, self.values.shape, strides, False, OrderedDict())


class _Stored:
    def __init__(self, key: str, values: NDArray[Any]) -> None:
        self.key, self.values = key, values


def _rebuild() -> None:
    """Stand for PyTorch's function of the name that is written."""


class _FloatStorage:
    """Stand for PyTorch's class of the name that is written."""


class _Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes PyTorch's names, which cannot be imported here."""

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, _Stored):
            return ("storage", _FloatStorage, value.key, "cpu", value.values.size, None)
        return None

    def save_global(self, value: Any, name: str | None = None) -> None:
        names = {_rebuild: ("torch._utils", "_rebuild_tensor_v2"), _FloatStorage: ("torch", "FloatStorage")}
        if value not in names:
            super().save_global(value, name)
            return
        module, written = names[value]
        self.write(pickle.GLOBAL + f"{module}\n{written}\n".encode())

    dispatch: ClassVar = {
        **pickle._Pickler.dispatch,  # type: ignore[attr-defined]
        type(_rebuild): save_global,
        type: save_global,
    }


def pytorch_file(tensors: dict[str, NDArray[np.float32]]) -> bytes:
    """Return a state dictionary in the format of ``torch.save`` before version 1.6."""
    file = io.BytesIO()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(header, file, protocol=2)
    _Pickler(file, protocol=2).dump(
        OrderedDict((name, _Rebuilt(str(key), values)) for key, (name, values) in enumerate(tensors.items()))
    )
    pickle.dump([str(key) for key in range(len(tensors))], file, protocol=2)
    for values in tensors.values():
        file.write(struct.pack("<q", values.size) + np.ascontiguousarray(values, "<f4").tobytes())
    return file.getvalue()


def test_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("a", (2, 3)), ("b", (4,)))}
    (tmp_path / "some.pth").write_bytes(pytorch_file(tensors))
    read = read_tensors(tmp_path / "some.pth")
    assert read.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(read[name], values)


def test_each_kernel_of_efficientnet_lite_gets_its_weights_in_keras_layout(tmp_path: Path) -> None:
    source, target = (EfficientNetLite2(input_shape=(64, 64, 3)) for _ in range(2))
    rng = np.random.default_rng(0)
    source.set_weights([rng.uniform(0.5, 1.5, each.shape).astype(np.float32) for each in source.get_weights()])
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
    kinds = {"expand_bn": "_bn0", "depthwise_bn": "_bn1", "project_bn": "_bn2"}
    tensors = {}
    for layer in source.layers:
        block, _, kind = layer.name.partition("_")
        name = names.get(layer.name) or f"_blocks.{block.removeprefix('block')}.{kinds.get(kind, f'_{kind}')}"
        if isinstance(layer, keras.layers.BatchNormalization):
            for part, values in zip(
                ("weight", "bias", "running_mean", "running_var"), layer.get_weights(), strict=True
            ):
                tensors[f"{name}.{part}"] = values
        elif layer.weights:
            (kernel,) = layer.get_weights()
            order = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (3, 2, 0, 1)
            tensors[f"{name}.weight"] = kernel.transpose(order)
    path = tmp_path / "lite2.pth"
    path.write_bytes(pytorch_file(tensors))
    load_efficientnet_lite(target, path)
    for one, other in zip(source.get_weights(), target.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(pytorch_file({"layer.weight": np.zeros((2, 2), np.float32)}))
    with pytest.raises(UsageError, match=r"has no weights of EfficientNet-Lite2: '_conv_stem\.weight'"):
        load_efficientnet_lite(EfficientNetLite2(input_shape=(64, 64, 3)), path)


class _Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_a_pickle_that_would_run_a_command_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "harmful.pth"
    path.write_bytes(b"".join(pickle.dumps(each, protocol=2) for each in (1, 1001, {}, _Command())))
    with pytest.raises(UsageError, match=r"it holds (posix|nt)\.system"):
        read_tensors(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "too few values"])
def test_a_damaged_file_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    whole = pytorch_file({"a": np.ones((20, 30), np.float32)})
    contents = {"empty": b"", "cut": whole[:-100], "text": b"weights", "too few values": whole[:-2408] + bytes(8)}
    path = tmp_path / "damaged.pth"
    path.write_bytes(contents[damage])
    with pytest.raises(UsageError, match=r"damaged\.pth is no file of PyTorch weights"):
        read_tensors(path)
