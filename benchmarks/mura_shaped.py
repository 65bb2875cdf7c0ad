"""Write FracAtlas' images of the upper limb as a data set in MURA's layout, to measure the recipes for MURA on.

    python -m benchmarks.mura_shaped FRACATLAS OUT/MURA-v1.1

MURA itself may not be redistributed. What is written has its folders, file names and tables, so that a recipe reads and
splits it as it would MURA, but it is not MURA: hands and shoulders instead of humeri, labelled *fractured* instead of
*abnormal*. A group of FracAtlas becomes a patient, and each image a study, as FracAtlas has neither. ``valid/`` is one
of five folds of whole patients, the one of the most patients, as an interval needs them. Images that cannot be read
are left out, and counted.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.dataset import UPPER_LIMB
from training.data.read_dataset import read_dataset
from training.data.split import assign_folds
from xray.archives.files import read_image_file
from xray.errors import FileFault
from xray.images.decode import MAX_PIXELS, open_image

FOLDS, SEED = 5, 0
ABOUT = (
    "This is not MURA. These are images of FracAtlas (Abedeen et al. 2023, Scientific Data, CC-BY-4.0,\n"
    "https://doi.org/10.1038/s41597-023-02432-4) in MURA's layout, written by bonescreen's benchmarks/mura_shaped.py.\n"
    "Do not pass on a model trained on them: its card names MURA as its data.\n"
)


def write_mura_shaped(fracatlas: Path, out: Path) -> int:
    """Write the tree into a new folder, and return the number of images that cannot be read."""
    dataset = read_dataset(fracatlas)
    dataset = dataset.select(np.isin(dataset.body_parts, list(UPPER_LIMB)))
    folds = assign_folds(dataset.labels, dataset.groups, FOLDS, SEED)
    valid = max(range(FOLDS), key=lambda fold: len(np.unique(dataset.groups[folds == fold])))
    patients = {group: f"patient{number:05d}" for number, group in enumerate(np.unique(dataset.groups).tolist(), 1)}
    studies = dict.fromkeys(patients, 0)
    images: dict[str, list[str]] = {"train": [], "valid": []}
    labelled: dict[str, list[str]] = {"train": [], "valid": []}
    unreadable = 0
    out.mkdir(parents=True)
    (out / "README.txt").write_text(ABOUT)
    for example, fold in zip(dataset.examples, folds.tolist(), strict=True):
        try:
            gray = open_image(read_image_file(dataset.root, example.image)).gray(MAX_PIXELS)
        except FileFault:
            unreadable += 1
            continue
        part = "valid" if fold == valid else "train"
        studies[example.group] += 1
        label = "positive" if example.label else "negative"
        study = f"{part}/XR_HUMERUS/{patients[example.group]}/study{studies[example.group]}_{label}"
        (out / study).mkdir(parents=True)
        Image.fromarray(gray).save(out / study / "image1.png")
        images[part].append(f"{out.name}/{study}/image1.png")
        labelled[part].append(f"{out.name}/{study}/,{int(example.label)}")
    for part in images:
        _write_table(out / f"{part}_image_paths.csv", images[part])
        _write_table(out / f"{part}_labeled_studies.csv", labelled[part])
    return unreadable


def _write_table(table: Path, lines: Iterable[str]) -> None:
    table.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.mura_shaped FRACATLAS OUT/MURA-v1.1")
    print(f"images that cannot be read, left out: {write_mura_shaped(Path(sys.argv[1]), Path(sys.argv[2]))}")
