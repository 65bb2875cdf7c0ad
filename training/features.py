"""What a frozen backbone sees of some images, computed once and kept on disk."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from xray.engine import forward_batches
from xray.engine_keras import CPU_BATCH, compile_forward
from xray.network import network_weights

CHUNK = 256


@dataclass(frozen=True)
class Features:
    """Frozen features of N images.

    Attributes
    ----------
    pooled : ndarray of float32, (N, C)
        The feature map's spatial mean: all that the head's dense layers see.
    chunks : tuple of Path
        Files of feature maps, float16 ``(n, h, w, C)``, in the images' order.
    """

    pooled: NDArray[np.float32]
    chunks: tuple[Path, ...]

    def maps(self) -> Iterator[NDArray[np.float32]]:
        """Yield the feature maps ``(n, h, w, C)`` chunk after chunk; together they are N."""
        for chunk in self.chunks:
            yield np.load(chunk).astype(np.float32)


def frozen_features(images: NDArray[np.uint8], network: keras.Model, folder: Path) -> Features:
    """Compute, or read back, what a network's head is given for these images.

    Chunks are kept under a hash of their pixels and the backbone's weights, so an interrupted run goes on where it
    stopped and a changed image or weight is never served from the cache.

    Parameters
    ----------
    images : ndarray of uint8, (N, size, size)
        Preprocessed radiographs.
    network : keras.Model
        From :func:`xray.network.build_network`, with the backbone weights that will ship.
    folder : Path
        Where chunks are kept; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backbone = keras.Model(network.input, network.get_layer("head").input)
    forward = compile_forward(backbone, CPU_BATCH)
    weights = hashlib.sha256(b"".join(weight.tobytes() for weight in network_weights(backbone)))
    pooled, chunks = [], []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        digest = weights.copy()
        digest.update(chunk.tobytes())
        key = digest.hexdigest()[:24]
        pooled_path, maps_path = folder / f"{key}.pooled.npy", folder / f"{key}.maps.npy"
        if not (pooled_path.exists() and maps_path.exists()):
            padded = np.concatenate([forward(batch)[0] for _, batch in forward_batches(chunk, CPU_BATCH)])
            maps = padded[: len(chunk)]
            _save(maps_path, maps.astype(np.float16))
            _save(pooled_path, maps.mean(axis=(1, 2), dtype=np.float32))
            print(f"features {start + len(chunk)}/{len(images)}", flush=True)
        pooled.append(np.load(pooled_path))
        chunks.append(maps_path)
    return Features(np.concatenate(pooled), tuple(chunks))


def _save(path: Path, array: NDArray[Any]) -> None:
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.rename(path)
