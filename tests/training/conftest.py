"""A small archive with an easy label, in FracAtlas's layout."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.dataset import COLUMNS

GROUPS, GROUP_SIZE = 12, 5


@pytest.fixture
def fracatlas(tmp_path: Path) -> Path:
    """Write 60 films in 12 groups; the fractured ones are bright on the left. One file is cut short."""
    folder = tmp_path / "fracatlas"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for index in range(GROUPS * GROUP_SIZE):
            fractured = index % 3 == 0
            film = rng.integers(0, 80, (90, 70), np.uint8)
            film[:, : 35 if fractured else 0] += 150
            name = f"IMG{index:04d}.png"
            Image.fromarray(film).save(folder / "images" / name)
            limb = index % 2
            writer.writerow([name, int(fractured), limb, 1 - limb, 0, 0, index // GROUP_SIZE])
    damaged = folder / "images" / "IMG0059.png"
    damaged.write_bytes(damaged.read_bytes()[:500])
    return folder
