"""Small labelled data sets that are easy to classify, in FracAtlas's and in MURA's layout, and initial weights."""

import csv
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.data.fracatlas import BODY_PARTS

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

GROUPS, GROUP_SIZE = 12, 5
BACKBONE, SIZE = "MobileNet", 64


def draw_image(rng: np.random.Generator, positive: bool) -> NDArray[np.uint8]:
    """Draw an image; positive ones have a bright upper half."""
    drawn = rng.integers(0, 80, (90, 70), np.uint8)
    drawn[: 45 if positive else 0] += 150
    return drawn


@pytest.fixture
def fracatlas(tmp_path: Path) -> Path:
    """Write 60 images in 12 groups, a third of them fractured. One file is truncated."""
    folder = tmp_path / "fracatlas"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "fractured", *BODY_PARTS, "group"))
        for index in range(GROUPS * GROUP_SIZE):
            fractured = index % 3 == 0
            name = f"IMG{index:04d}.png"
            Image.fromarray(draw_image(rng, fractured)).save(folder / "images" / name)
            limb = index % 2
            writer.writerow([name, int(fractured), limb, 0, 0, 1 - limb, index // GROUP_SIZE])
    damaged = folder / "images" / "IMG0059.png"
    damaged.write_bytes(damaged.read_bytes()[:500])
    return folder


@pytest.fixture
def mura(tmp_path: Path) -> Path:
    """Write folders in MURA's layout; see `write_mura`."""
    return write_mura(tmp_path)


def write_mura(parent: Path) -> Path:
    """Write folders in MURA's layout: 24 patients with a study of two images, every other one positive."""
    folder = parent / "mura" / "MURA-v1.1"
    rng = np.random.default_rng(1)
    for patient in range(24):
        label = ("negative", "positive")[patient % 2]
        study = folder / f"XR_HUMERUS/patient{patient:05d}/study1_{label}"
        study.mkdir(parents=True)
        for number in (1, 2):
            Image.fromarray(draw_image(rng, label == "positive")).save(study / f"image{number}.png")
    return folder


@pytest.fixture(scope="session")
def backbone_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write weights of a small backbone whose features still differ between images."""
    import keras

    from tests.tiny import random_weight

    rng = np.random.default_rng(0)
    backbone = getattr(keras.applications, BACKBONE)(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    backbone.set_weights([random_weight(w.name, tuple(w.shape), rng) for w in backbone.weights])
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    with warnings.catch_warnings():
        # Keras 3.15 saves through an interface that NumPy 2 deprecates.
        warnings.filterwarnings("ignore", message="__array__ implementation")
        backbone.save_weights(path)
    return path
