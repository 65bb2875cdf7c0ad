"""Data augmentation: rotated, mirrored, moved, scaled, lighter or darker images."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.recipes import Augmentation


def augment(
    images: NDArray[np.uint8] | Mapping[int, NDArray[np.uint8]],
    indices: NDArray[np.integer],
    augmentation: Augmentation,
    seed: tuple[int, ...],
) -> NDArray[np.uint8]:
    """Change images at random; the same seed and index always give the same image.

    Parameters
    ----------
    images : ndarray of uint8, (N, size, size), or mapping from index to ndarray of uint8, (size, size)
        Preprocessed images.
    indices : ndarray of int, (n,)
        Which of them to change.
    augmentation : Augmentation
        Largest changes.
    seed : tuple of int
        Random seed, which an image's index is added to.

    Returns
    -------
    ndarray of uint8, (n, size, size)
        Black where a pixel comes from outside the image.
    """
    return np.stack(
        [_augment(images[index], augmentation, np.random.default_rng((*seed, index))) for index in indices.tolist()]
    )


def _augment(image: NDArray[np.uint8], limits: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    # Always draws all numbers, so that switching one change on or off does not alter the others.
    mirror, angle, zoom, across, down, gain, gamma = rng.uniform(-1, 1, 7)
    angle, zoom = math.radians(limits.rotation * angle), 1 + limits.scale * zoom
    side = len(image)
    if limits.flip and mirror > 0:
        image = image[:, ::-1]
    # PIL takes the inverse transform, from output to input pixels, here about the centre.
    cosine, sine, middle = math.cos(angle) / zoom, math.sin(angle) / zoom, (side - 1) / 2
    x, y = middle + limits.shift * side * across, middle + limits.shift * side * down
    inverse = (cosine, sine, middle - cosine * x - sine * y, -sine, cosine, middle + sine * x - cosine * y)
    # PIL's coefficients refer to the corners of pixels, these to their centres.
    corner = (inverse[2] + 0.5 - 0.5 * (cosine + sine), inverse[5] + 0.5 - 0.5 * (cosine - sine))
    moved = Image.fromarray(np.ascontiguousarray(image)).transform(
        (side, side),
        Image.Transform.AFFINE,
        (inverse[0], inverse[1], corner[0], inverse[3], inverse[4], corner[1]),
        Image.Resampling.BILINEAR,
    )
    exponent, factor = math.exp(limits.gamma * gamma), math.exp(limits.gain * gain)
    gray = 255 * factor * (np.asarray(moved, np.float32) / 255) ** exponent
    rounded: NDArray[np.uint8] = np.clip(np.rint(gray), 0, 255).astype(np.uint8)
    return rounded
