"""Read a folder of labelled radiographs, whatever its format."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from training.data.dataset import Dataset
from training.data.fracatlas import is_fracatlas, read_fracatlas
from training.data.manifest import read_manifest_dataset
from training.data.mura import is_mura, read_mura
from training.data.split import note_moved_to_test, regroup
from training.disk import read_table
from xray.archives.layouts import MANIFEST_NAME
from xray.errors import UsageError


def read_dataset(
    folder: Path,
    *,
    body_parts: Collection[str] = (),
    groups: Path | None = None,
    pseudonym_key: bytes | None = None,
    finding: str | None = None,
) -> Dataset:
    """Read the labelled radiographs in a folder: a ``manifest.csv``, FracAtlas, or MURA's layout.

    Parameters
    ----------
    folder : Path
        The data set's folder.
    body_parts : collection of str
        DICOM Body Part Examined terms to select. All by default, or if one is ``all`` in upper or lower case.
    groups : Path or None
        A CSV file ``image,group`` of images to keep in the same split; see :func:`training.data.split.regroup`.
    pseudonym_key : bytes or None
        Key for the hashes of a manifest's patients.
    finding : str or None
        What a positive label means, if the data set does not say.

    Raises
    ------
    UsageError
        If the folder has a different format, a table is invalid, or no image is selected.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    if (folder / MANIFEST_NAME).is_file():
        dataset = read_manifest_dataset(folder, pseudonym_key)
    elif is_fracatlas(folder):
        dataset = read_fracatlas(folder)
    elif is_mura(folder):
        dataset = read_mura(folder)
    else:
        raise UsageError(
            f"{folder} is not a labelled data set: it has no {MANIFEST_NAME}, no FracAtlas labels.csv or dataset.csv "
            "beside images/, and no MURA folders (XR_HUMERUS/patient00001/study1_positive)"
        )
    if finding is not None:
        dataset = replace(dataset, finding=finding)
    if groups is not None:
        dataset = regroup(dataset, read_groups(groups))
    return note_moved_to_test(dataset.of_body_parts(body_parts))


def read_groups(table: Path) -> dict[str, str]:
    """Read a CSV file ``image,group`` into a mapping from image path to group.

    Raises
    ------
    UsageError
        If the file is missing, lacks a column, or puts an image into two groups.
    """
    groups: dict[str, str] = {}
    for line, record in read_table(table, ("image", "group")):
        image, group = record["image"], record["group"]
        if not image or not group:
            raise UsageError(f"{table}, line {line}: image or group is empty")
        if groups.setdefault(image, group) != group:
            raise UsageError(f"{table}, line {line}: {image!r} is in two groups, {groups[image]!r} and {group!r}")
    return groups
