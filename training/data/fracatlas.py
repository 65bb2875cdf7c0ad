"""FracAtlas (Abedeen et al. 2023, Scientific Data), as published or with groups of near duplicates."""

from pathlib import Path, PurePosixPath

from training.data.dataset import Dataset, Example
from training.data.read_annotations import with_coco_annotations, with_listed_annotations
from training.disk import read_table
from xray.errors import UsageError
from xray.network.card import TrainingData

GROUPED, PUBLISHED = "labels.csv", "dataset.csv"
PUBLISHED_ANNOTATIONS = "Annotations/COCO JSON/COCO_fracture_masks.json"
GROUPED_ANNOTATIONS = "fractures.json"
# In this order, so that an image of a hand and a leg counts as upper limb.
BODY_PARTS = {"hand": "HAND", "shoulder": "SHOULDER", "hip": "HIP", "leg": "LEG"}
FOLDERS = ("images", "images/Fractured", "images/Non_fractured")

FRACATLAS = TrainingData(
    name="FracAtlas",
    role="training, thresholds, calibration and metrics",
    licence="CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/)",
    terms="attribution; images reduced to at most 640 px on the long side, then preprocessed",
    attribution="Abedeen et al., FracAtlas: A Dataset for Fracture Classification, Localization and Segmentation of "
    "Musculoskeletal Radiographs, Scientific Data 10, 521 (2023), https://doi.org/10.1038/s41597-023-02432-4",
)


def is_fracatlas(folder: Path) -> bool:
    """Return whether a folder has a FracAtlas table and ``images/``."""
    return (folder / "images").is_dir() and any((folder / name).is_file() for name in (GROUPED, PUBLISHED))


def read_fracatlas(folder: Path) -> Dataset:
    """Read FracAtlas.

    ``dataset.csv`` is the published table (``image_id``, body-part flags, ``fractured``; images in
    ``images/Fractured`` and ``images/Non_fractured``). It has no patients or groups, so each image is its own group.
    ``labels.csv`` is the same table with a column ``group``; its images are in ``images``. Where the fractures lie is
    read from ``Annotations/COCO JSON/COCO_fracture_masks.json``, as published, or from a list ``fractures.json``.

    Parameters
    ----------
    folder : Path
        The folder of the table and ``images/``.

    Raises
    ------
    UsageError
        If the table lacks a column, has a value that is not 0 or 1, or has no rows; or if an annotation is wrong.
    ArchiveOutage
        If the storage fails.
    """
    grouped = (folder / GROUPED).is_file()
    table = folder / (GROUPED if grouped else PUBLISHED)
    name = "image" if grouped else "image_id"
    records = read_table(table, (name, "fractured", *BODY_PARTS, *(("group",) if grouped else ())))
    if not records:
        raise UsageError(f"{table} has no rows")
    examples = tuple(_example(table, line, record, folder, grouped=grouped) for line, record in records)
    notes = () if grouped else (
        f"{PUBLISHED} has no groups, so near duplicates may be in two parts of a split: let bonescreen audit write "
        "groups.csv, and train with --groups",
    )  # fmt: skip
    dataset = Dataset(folder, FRACATLAS, "fracture", examples, notes)
    positions = {PurePosixPath(example.image).name: at for at, example in enumerate(examples)}
    if (folder / PUBLISHED_ANNOTATIONS).is_file():
        return with_coco_annotations(dataset, folder / PUBLISHED_ANNOTATIONS, positions)
    if (folder / GROUPED_ANNOTATIONS).is_file():
        return with_listed_annotations(dataset, folder / GROUPED_ANNOTATIONS, positions)
    return dataset


def _example(table: Path, line: int, record: dict[str, str], folder: Path, *, grouped: bool) -> Example:
    name = "image" if grouped else "image_id"
    image = record[name]
    if not image or PurePosixPath(image).name != image:
        raise UsageError(f"{table}, line {line}: {name} is not a file name")
    for column in ("fractured", *BODY_PARTS):
        if record[column] not in ("0", "1"):
            raise UsageError(f"{table}, line {line}: {column} is not 0 or 1")
    if grouped and not record["group"]:
        raise UsageError(f"{table}, line {line}: group is empty")
    body_part = next((part for column, part in BODY_PARTS.items() if record[column] == "1"), None)
    path = next((f"{place}/{image}" for place in FOLDERS if (folder / place / image).is_file()), f"images/{image}")
    return Example(path, image, record["group"] if grouped else image, record["fractured"] == "1", body_part)
