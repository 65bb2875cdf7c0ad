"""A labelled data set in FracAtlas's layout with one fault of each kind."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

HOSTILE = "<script>alert(1)</script>.png"


@dataclass(frozen=True)
class Row:
    """A line of ``labels.csv``."""

    image: str
    positive: bool
    group: str


def limb(seed: int) -> NDArray[np.uint8]:
    """Draw a limb with two bones: the same view for all seeds, another person for each."""
    rng = np.random.default_rng(seed)
    drawing = Image.new("L", (200, 260), 12)
    draw = ImageDraw.Draw(drawing)
    x, lean, wide = 100 + rng.integers(-25, 25), rng.integers(-35, 35), rng.integers(28, 48)
    draw.line((x, -20, x + lean, 150), fill=90, width=2 * int(wide))
    for offset in (-wide // 2, wide // 2):
        shaft = int(rng.integers(8, 16))
        draw.line((x + offset, -20, x + lean + offset, 130), fill=int(rng.integers(150, 220)), width=shaft)
    for finger in range(5):
        along = rng.integers(-14, 14, 2)
        tip = (x + lean - 50 + 25 * finger + along[0], 225 + along[1])
        draw.line((x + lean - 20 + 10 * finger, 140, *tip), fill=int(rng.integers(110, 190)), width=14)
    noise = rng.normal(0, 3, (260, 200))
    return np.clip(np.asarray(drawing.filter(ImageFilter.GaussianBlur(2))) + noise, 0, 255).astype(np.uint8)


def write_faulty_data(folder: Path) -> list[Row]:
    """Write 60 images of 30 groups, and the faulty ones."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for seed in range(60):
        rows.append(Row(f"image{seed:02d}.png", seed % 3 == 0, f"p{seed // 2:02d}"))
        Image.fromarray(limb(seed)).save(folder / "images" / rows[-1].image)
    whole = (folder / "images" / "image01.png").read_bytes()
    (folder / "images" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images" / "exact.png").write_bytes(whole)
    rows += [Row("truncated.png", False, "p00"), Row("exact.png", False, "p00")]
    constant: NDArray[np.uint8] = np.full((260, 200), 7, np.uint8)
    copies: dict[str, tuple[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
        "tiff.tif": (2, lambda gray: gray),
        "jpeg.jpg": (4, lambda gray: gray),
        "smaller.png": (7, lambda gray: np.asarray(Image.fromarray(gray).resize((150, 195)))),
        "brighter.png": (8, lambda gray: np.clip(gray * 1.15 + 10.0, 0, 255).astype(np.uint8)),
        "mirrored.png": (10, lambda gray: gray[:, ::-1].copy()),
        "inverted.png": (11, lambda gray: 255 - gray),
        "relabelled.jpg": (13, lambda gray: gray),
        "elsewhere.jpg": (16, lambda gray: gray),
        "blank.png": (17, lambda gray: constant),
        "blank2.png": (19, lambda gray: constant),
        HOSTILE.replace("/", "_"): (20, lambda gray: gray),
    }
    for name, (seed, change) in copies.items():
        Image.fromarray(change(limb(seed))).save(folder / "images" / name)
        group = "<b>other</b>" if name == "elsewhere.jpg" else f"p{seed // 2:02d}"
        rows.append(Row(name, (seed % 3 == 0) != (name == "relabelled.jpg"), group))
    write_labels(folder, rows)
    return rows


def write_labels(folder: Path, rows: list[Row]) -> None:
    """Write ``labels.csv``."""
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "fractured", "hand", "leg", "hip", "shoulder", "group"))
        writer.writerows((row.image, int(row.positive), 1, 0, 0, 0, row.group) for row in rows)
