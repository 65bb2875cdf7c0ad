"""How unlike the training images an image may be: the threshold of the network's distance, and what lies beyond it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.data.dataset import Dataset
from xray.errors import FileFault, UsageError
from xray.images.decode import open_image
from xray.images.preprocessing import Preprocessing, load
from xray.network.card import Distance, Metric

FALSE_ALARMS = 0.01
"""The largest share of held-out images beyond the threshold before it is widened."""

MARGIN = 1.5
"""The threshold is so many times what held-out images alone give, as other hospitals' images differ more.

Measured by hand with the recipe fracture, version 5, in times of that: a hand and a hip of other sources are at about
1, a leg with white borders at 2.0; chests at 1.8 and more, photographs at 1.9, drawn pictures at 1.3 to 7."""

LEAST_THRESHOLD = 1e-3
"""For a network to which all images are alike."""

EACH = 20
"""Drawn pictures of each kind."""

SHARE = "share out of scope"


def choose_distance(distances: NDArray[np.float64], components: int, source: str) -> Distance:
    """Choose the threshold: `MARGIN` times the distance that at most `FALSE_ALARMS` of held-out images exceed.

    Parameters
    ----------
    distances : ndarray of float64, (n,)
        Of images that the network was not trained on, and that are like those that it was trained on.
    components : int
        Principal components of the distance.
    source : str
        The images, in words.
    """
    threshold = MARGIN * float(np.sort(distances)[-1 - int(FALSE_ALARMS * len(distances))])
    chosen = f"{MARGIN:g} times the least that at most {100 * FALSE_ALARMS:g} % exceed of {source}"
    return Distance(components, max(threshold, LEAST_THRESHOLD), chosen, ())


def false_alarms(distances: NDArray[np.float64], dataset: Dataset, threshold: float, how: str) -> tuple[Metric, ...]:
    """Return the shares of held-out images beyond a threshold: of all, of positive ones, and of each body part."""
    parts = sorted(set(dataset.body_parts.tolist()) - {""})
    populations = {
        "images": np.ones(len(dataset), np.bool_),
        "positive images": dataset.labels,
        **({f"images of {part}": dataset.body_parts == part for part in parts} if len(parts) > 1 else {}),
    }
    return tuple(
        _share(distances[chosen] > threshold, f"{dataset.terms.name}, {name} (n={chosen.sum()}), {how}: false alarms")
        for name, chosen in populations.items()
        if chosen.any()
    )


def caught(
    distances_of: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    pictures: Mapping[str, NDArray[np.uint8]],
    threshold: float,
) -> tuple[Metric, ...]:
    """Return the shares of pictures of other things beyond a threshold.

    Parameters
    ----------
    distances_of : callable
        From preprocessed pictures ``uint8 (N, size, size)`` to their distances ``(N,)``.
    pictures : mapping of str to ndarray of uint8
        Such pictures, by what they are.
    threshold : float
        The largest distance in scope.
    """
    return tuple(_share(distances_of(some) > threshold, f"{name} (n={len(some)})") for name, some in pictures.items())


def other_pictures(folders: Sequence[Path], preprocessing: Preprocessing) -> dict[str, NDArray[np.uint8]]:
    """Return pictures of other things by what they are: those in folders, and drawn ones.

    Parameters
    ----------
    folders : sequence of Path
        Folders of pictures of other things, such as other body regions.
    preprocessing : Preprocessing
        The network's.

    Raises
    ------
    UsageError
        If a folder does not exist, none of its files can be read, or two folders have the same name.
    """
    name, times = Counter(folder.resolve().name for folder in folders).most_common(1)[0] if folders else ("", 0)
    if times > 1:
        raise UsageError(f"{times} folders of pictures are named {name!r}: rename them, as the card gives their names")
    found = {f"pictures in {folder.resolve().name}": read_pictures(folder, preprocessing) for folder in folders}
    drawn = drawn_pictures(preprocessing.size)
    return found | {f"drawn pictures, {kind}": pictures for kind, pictures in drawn.items()}


def read_pictures(folder: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Read the pictures in a folder and those below it as screening does; equal ones count once.

    Files that cannot be read, and those that screening refuses, are left out: they get no score.

    Returns
    -------
    ndarray of uint8, (N, size, size)

    Raises
    ------
    UsageError
        If there is no such folder, or no file in it can be read.
    """
    found: dict[bytes, NDArray[np.uint8]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                picture = load(open_image(path.read_bytes()), preprocessing)
            except (FileFault, OSError):
                continue
            found[picture.tobytes()] = picture
    if not found:
        raise UsageError(f"{folder} is no folder with pictures that can be read")
    return np.stack(list(found.values()))


def drawn_pictures(size: int, seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    """Draw pictures that show no body part, by kind.

    Parameters
    ----------
    size : int
        Side, pixels.
    seed : int
        Random seed.

    Returns
    -------
    dict of str to ndarray of uint8, (EACH, size, size)
    """
    rng = np.random.default_rng(seed)
    kinds = {"noise": _noise, "blank": _blank, "gradients": _gradient, "shapes": _shapes, "pages of text": _text}
    return {name: np.stack([draw(rng, size) for _ in range(EACH)]) for name, draw in kinds.items()}


def _noise(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw random fields, from a pixel to an eighth of the side."""
    cells = max(8, size >> int(rng.integers(0, 5)))
    return _resized(rng.integers(0, 256, (cells, cells), np.uint8), size)


def _blank(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    return np.clip(rng.uniform(0, 255) + rng.normal(0, rng.uniform(0, 4), (size, size)), 0, 255).astype(np.uint8)


def _gradient(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    return _resized(rng.integers(0, 256, (2, 2), np.uint8), size)


def _shapes(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    page = Image.new("L", (size, size), int(rng.integers(0, 256)))
    draw = ImageDraw.Draw(page)
    for number in range(int(rng.integers(1, 9))):
        left, top, width, height = (int(each) for each in rng.integers(size // 16, size // 2, 4))
        shape = (draw.ellipse, draw.rectangle)[number % 2]
        shape((left, top, left + width, top + height), fill=int(rng.integers(0, 256)))
    return np.asarray(page)


def _text(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    dark, light = int(rng.integers(0, 60)), int(rng.integers(180, 256))
    ink, paper = (dark, light) if rng.random() < 0.5 else (light, dark)
    page = Image.new("L", (size, size), paper)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz      "))
    for top in range(0, size, int(rng.integers(9, 16))):
        ImageDraw.Draw(page).text((4, top), "".join(rng.choice(letters, size // 5)), fill=ink)
    return np.asarray(page)


def _resized(cells: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(cells).resize((size, size), Image.Resampling.BILINEAR))


def _share(beyond: NDArray[np.bool_], population: str) -> Metric:
    return Metric(SHARE, population, round(float(beyond.mean()), 4), None, None)
