"""What the frozen layers make of the films, computed once for every view and kept on disk."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from training.disk import mapped_array, write_whole
from training.fit.augment import augment
from training.fit.learner import Learner
from training.progress import Progress
from xray.network.builder import network_weights
from xray.network.engine import padded_batches
from xray.network.keras_engine import compile_forward

BATCH = 16
CHUNK = 256


def trunk_features(
    images: NDArray[np.uint8], learner: Learner, views: int, cache: Path, progress: Progress
) -> NDArray[np.float16]:
    """Compute, or read back, the trunk's features of every film in every view.

    They are kept under a hash of films, frozen weights and augmentation, chunk by chunk, so an interrupted run goes on
    where it stopped, and a changed film or weight is never served from the cache.

    Parameters
    ----------
    images : ndarray of uint8, (N, size, size)
        Preprocessed films.
    learner : Learner
        Its trunk is what is frozen.
    views : int
        How many views of each film; the first is the film itself.
    cache : Path
        Folder that keeps them; made if missing.
    progress : Progress
        Is told of every chunk.

    Returns
    -------
    ndarray of float16, (views, N, h, w, C)
        Mapped from disk.

    Raises
    ------
    StorageOutage
        If the disk has no room for them.
    """
    cache.mkdir(parents=True, exist_ok=True)
    trunk = learner.trunk()
    shape = (views, len(images), *trunk.output_shape[1:])
    key = features_key(images, learner)
    path, partial, marks = (
        cache / f"{key}{suffix}" for suffix in (".features.npy", ".features.part", ".features.done")
    )
    if path.exists():
        return _mapped(path)
    done = int(marks.read_text()) if marks.exists() and partial.exists() else 0
    if not done:
        partial.unlink(missing_ok=True)
    features = mapped_array(partial, np.float16, shape)
    forward = compile_forward(trunk, BATCH)
    chunks = list(_chunks(views, len(images)))
    progress.say(f"frozen layers: {views * len(images):,} films to compute, {done * CHUNK:,} done already")
    with progress.bar("frozen layers", len(chunks), done) as advance:
        for number, (which, start) in enumerate(chunks[done:], start=done + 1):
            films = _view_of_chunk(images, which, start, learner)
            for place, batch in padded_batches(films, BATCH):
                features[which, start + place.start : start + place.stop] = forward(batch)[0][: len(films[place])]
            features.flush()
            write_whole(marks, str(number).encode())
            advance(1)
    partial.rename(path)
    marks.unlink()
    return _mapped(path)


def _mapped(path: Path) -> NDArray[np.float16]:
    features: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return features


def _chunks(views: int, images: int) -> Iterator[tuple[int, int]]:
    for which in range(views):
        for start in range(0, images, CHUNK):
            yield which, start


def _view_of_chunk(images: NDArray[np.uint8], which: int, start: int, learner: Learner) -> NDArray[np.uint8]:
    recipe = learner.recipe
    chunk = np.asarray(images[start : start + CHUNK])
    if not which:
        return chunk
    return augment(chunk, np.arange(len(chunk)), recipe.augmentation, (recipe.seed, which, start))


def features_key(images: NDArray[np.uint8], learner: Learner) -> str:
    """Return what trunk features are kept under: a hash of films, frozen weights, views and how they are drawn."""
    recipe, trunk = learner.recipe, learner.trunk()
    made_by = (keras.backend.backend(), keras.__version__, keras.config.dtype_policy().name)
    drawn = (
        made_by,
        recipe.backbone,
        str(recipe.augmentation),
        recipe.views,
        recipe.seed,
        trunk.output_shape,
        images.shape,
    )
    digest = hashlib.sha256(repr(drawn).encode())
    for array in (*network_weights(trunk), *(images[start : start + CHUNK] for start in range(0, len(images), CHUNK))):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:24]
