"""Changes to a film after which it still shows the same bone: turned, mirrored, moved, lighter or darker."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.recipes import Augmentation


def augment(
    images: NDArray[np.uint8], indices: NDArray[np.integer], augmentation: Augmentation, seed: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Change each film at random; the same seed and index always give the same film.

    Parameters
    ----------
    images : ndarray of uint8, (N, size, size)
        Preprocessed films.
    indices : ndarray of int, (n,)
        Which of them.
    augmentation : Augmentation
        How much.
    seed : tuple of int
        Of the draw, together with the film's index.

    Returns
    -------
    ndarray of uint8, (n, size, size)
        What is turned in from outside the film is black.
    """
    return np.stack([_augment(images[index], augmentation, np.random.default_rng((*seed, index))) for index in indices])


def _augment(film: NDArray[np.uint8], by: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    # All numbers are drawn whatever is asked for, so that one kind of change leaves the others as they were.
    mirror, angle, zoom, across, down, gain, gamma = rng.uniform(-1, 1, 7)
    angle, zoom = math.radians(by.rotation * angle), 1 + by.scale * zoom
    side = len(film)
    if by.flip and mirror > 0:
        film = film[:, ::-1]
    # PIL wants the way back, from the new film's pixels to the old one's, here about the centre.
    cosine, sine, middle = math.cos(angle) / zoom, math.sin(angle) / zoom, (side - 1) / 2
    x, y = middle + by.shift * side * across, middle + by.shift * side * down
    back = (cosine, sine, middle - cosine * x - sine * y, -sine, cosine, middle + sine * x - cosine * y)
    # PIL's coefficients are for pixel corners.
    corner = (back[2] + 0.5 - 0.5 * (cosine + sine), back[5] + 0.5 - 0.5 * (cosine - sine))
    turned = Image.fromarray(np.ascontiguousarray(film)).transform(
        (side, side),
        Image.Transform.AFFINE,
        (back[0], back[1], corner[0], back[3], back[4], corner[1]),
        Image.Resampling.BILINEAR,
    )
    exponent, factor = math.exp(by.gamma * gamma), math.exp(by.gain * gain)
    gray = 255 * factor * (np.asarray(turned, np.float32) / 255) ** exponent
    rounded: NDArray[np.uint8] = np.clip(np.rint(gray), 0, 255).astype(np.uint8)
    return rounded
