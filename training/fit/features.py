"""Output of the frozen layers for every augmented view of every image, computed once and cached on disk."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from training.disk import mapped_array, write_atomically
from training.fit.augment import augment
from training.fit.learner import Learner
from training.progress import Progress
from training.recipes import Augmentation
from xray.network.builder import network_weights
from xray.network.engine import padded_batches
from xray.network.keras_engine import compile_forward

BATCH = 16
CHUNK = 256


def cached_features(
    images: NDArray[np.uint8], learner: Learner, views: int, cache: Path, progress: Progress
) -> NDArray[np.float16]:
    """Compute the frozen layers' features of every image in every view, or read them from the cache.

    The cache is keyed by a hash of images, frozen weights and augmentation, and written in chunks, so an interrupted
    run continues, and features of other images or weights are never used.

    Parameters
    ----------
    images : ndarray of uint8, (N, size, size)
        Preprocessed images.
    learner : Learner
        The network, with its frozen layers.
    views : int
        Number of views of each image; the first is the image without augmentation.
    cache : Path
        Folder of the cache; created if missing.
    progress : Progress
        Shows a line and a progress bar.

    Returns
    -------
    ndarray of float16, (views, N, h, w, C)
        Memory-mapped.

    Raises
    ------
    StorageOutage
        If the disk does not have enough space.
    """
    cache.mkdir(parents=True, exist_ok=True)
    recipe = learner.recipe
    frozen = learner.frozen_model()
    shape = (views, len(images), *frozen.output_shape[1:])
    key = features_key(images, learner)
    path, partial, counter = (
        cache / f"{key}{suffix}" for suffix in (".features.npy", ".features.part", ".features.done")
    )
    if path.exists():
        return _map(path)
    done = int(counter.read_text()) if counter.exists() and partial.exists() else 0
    if not done:
        partial.unlink(missing_ok=True)
    features = mapped_array(partial, np.float16, shape)
    forward = compile_forward(frozen, BATCH)
    chunks = list(_chunks(views, len(images)))
    total, before = views * len(images), sum(_chunk_size(start, len(images)) for _, start in chunks[:done])
    progress.say(f"frozen layers: {total:,} views of images to compute, {before:,} already done")
    with progress.bar("frozen layers", total, before, "view") as advance:
        for number, (view, start) in enumerate(chunks[done:], start=done + 1):
            indices = np.arange(start, start + _chunk_size(start, len(images)))
            chunk = view_of(images, indices, view, recipe.augmentation, recipe.seed)
            for place, batch in padded_batches(chunk, BATCH):
                features[view, start + place.start : start + place.stop] = forward(batch)[0][: len(chunk[place])]
                advance(len(chunk[place]))
            features.flush()
            write_atomically(counter, str(number).encode())
    partial.rename(path)
    counter.unlink()
    return _map(path)


def features_key(images: NDArray[np.uint8], learner: Learner) -> str:
    """Return the key of cached features: a hash of images, frozen weights, views, augmentation and seed."""
    recipe, frozen = learner.recipe, learner.frozen_model()
    libraries = (keras.backend.backend(), keras.__version__, keras.config.dtype_policy().name)
    settings = (
        libraries,
        recipe.backbone,
        str(recipe.augmentation),
        recipe.views,
        recipe.seed,
        frozen.output_shape,
        images.shape,
    )
    digest = hashlib.sha256(repr(settings).encode())
    for array in (*network_weights(frozen), *(images[start : start + CHUNK] for start in range(0, len(images), CHUNK))):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:24]


def _map(path: Path) -> NDArray[np.float16]:
    features: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return features


def _chunks(views: int, images: int) -> Iterator[tuple[int, int]]:
    for view in range(views):
        for start in range(0, images, CHUNK):
            yield view, start


def _chunk_size(start: int, images: int) -> int:
    return min(CHUNK, images - start)


def view_of(
    images: NDArray[np.uint8] | Mapping[int, NDArray[np.uint8]],
    indices: NDArray[np.integer],
    view: int,
    augmentation: Augmentation,
    seed: int,
) -> NDArray[np.uint8]:
    """Return a view of n images, or of masks of them: ``(n, size, size)``; the first view is not augmented."""
    if not view:
        return np.stack([images[index] for index in indices.tolist()])
    return augment(images, indices, augmentation, (seed, view))
