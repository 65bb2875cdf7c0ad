"""MURA v1.1 (Rajpurkar et al. 2018, arXiv:1712.06957) as downloaded, or any folder in its layout."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

from training.data.dataset import OWN_DATA, Dataset, Example, Role, unlabelled_note
from xray.archives.archive_file import Placement
from xray.archives.layouts import is_hidden, placement_from_path
from xray.errors import UsageError
from xray.network.card import TrainingData
from xray.vocabulary import Label, Layout, SkipReason, describe_skipped

PUBLISHED_FOLDER = "MURA-v1.1"
ROLES = {"train": Role.TRAIN, "valid": Role.TEST}
_PATIENT = re.compile(r"patient\w+", re.IGNORECASE)
_PART_FOLDER = re.compile(r"XR_[A-Z_]+", re.IGNORECASE)

MURA = TrainingData(
    name="MURA v1.1",
    role="training, thresholds, calibration and metrics",
    licence="Stanford University School of Medicine MURA Dataset Research Use Agreement",
    terms="personal, non-commercial research only; the images may not be redistributed: read the agreement before "
    "passing on a model trained on them",
    attribution="Rajpurkar et al., MURA: Large Dataset for Abnormality Detection in Musculoskeletal Radiographs, "
    "MIDL 2018, arXiv:1712.06957",
)

OWN_DATA_NOTE = (
    f"there are no MURA tables and no folder {PUBLISHED_FOLDER}, so these are treated as your own data in MURA's "
    "layout; if the images are from MURA, Stanford's agreement applies"
)


def is_mura(folder: Path) -> bool:
    """Return whether a folder has MURA's tables, or ``XR_<PART>`` folders at most three levels down."""
    return bool(_tables(folder)) or any(_part_folders(folder, levels=3))


def read_mura(folder: Path) -> Dataset:
    """Read MURA by its CSV files, or without them by the names of its folders.

    A study's label is the one in the table, or without a table its folder's. ``train/`` is the training part and
    ``valid/`` the test part, as published. The group is the patient, across body parts. MURA's terms apply if its
    tables or a folder ``MURA-v1.1`` are there; other folders in its layout are own data.

    Parameters
    ----------
    folder : Path
        ``MURA-v1.1``, its parent, or any folder of ``XR_<PART>/patient<N>/study<N>_<label>/<image>``.

    Raises
    ------
    UsageError
        If there is no labelled image, a table is invalid, or a patient is in both ``train/`` and ``valid/``.
    """
    tables, skipped = _tables(folder), Counter[SkipReason]()
    root = tables[0].parent if tables else folder
    listed = list(_listed_images(root)) if tables else sorted(_walk(root, skipped))
    labels = _listed_labels(root) if tables else {}
    examples, unlabelled, contradicted = [], 0, dict[str, None]()
    for path in listed:
        placement = placement_from_path(path, Layout.MURA, root)
        if not isinstance(placement, Placement):
            if tables:
                raise UsageError(
                    f"{root}: the listed image {path!r} is not XR_<PART>/patient<N>/study<N>_<label>/<image>"
                )
            if placement not in (SkipReason.HIDDEN, SkipReason.NOT_AN_IMAGE):
                skipped[placement] += 1
            continue
        by_folder = None if placement.human_label is None else placement.human_label is Label.POSITIVE
        label = labels.get(placement.study, by_folder)
        if label is None:
            unlabelled += 1
            continue
        if by_folder not in (None, label):
            contradicted[placement.study] = None
        examples.append(_example(path, placement, label))
    if not examples:
        raise UsageError(f"{folder} has no labelled images in MURA's layout (study1_positive, study1_negative)")
    _require_disjoint_parts(root, examples)
    notes = _notes(unlabelled, tuple(contradicted), skipped)
    if tables or _is_named_mura(folder):
        return Dataset(root, MURA, "abnormality", tuple(examples), notes)
    return Dataset(root, OWN_DATA, "abnormality", tuple(examples), (OWN_DATA_NOTE, *notes))


def _example(path: str, placement: Placement, label: bool) -> Example:
    folders = PurePosixPath(path).parts[:-1]
    patient = next((name.lower() for name in folders if _PATIENT.fullmatch(name)), placement.study)
    above = takewhile(lambda name: not _PART_FOLDER.fullmatch(name), folders)
    role = next((ROLES[name] for name in reversed(list(above)) if name in ROLES), None)
    return Example(path, placement.study, patient, label, placement.body_part, role)


def _notes(unlabelled: int, contradicted: Sequence[str], skipped: Counter[SkipReason]) -> tuple[str, ...]:
    notes = []
    if unlabelled:
        notes.append(unlabelled_note(unlabelled))
    if contradicted:
        notes.append(
            f"studies with one label in the table and a different one in their folder's name: {len(contradicted):,}; "
            f"the table's label is used: {', '.join(contradicted[:3])}"
        )
    described = [describe_skipped(reason, skipped[reason]) for reason in SkipReason if skipped[reason]]
    if described:
        notes.append(f"skipped {', '.join(described)}")
    return tuple(notes)


def _is_named_mura(folder: Path) -> bool:
    names = (name.lower() for name in folder.resolve().parts)
    return PUBLISHED_FOLDER.lower() in names or (folder / PUBLISHED_FOLDER).is_dir()


def _tables(folder: Path) -> list[Path]:
    for root in (folder, folder / PUBLISHED_FOLDER):
        found = [root / f"{part}_image_paths.csv" for part in ROLES if (root / f"{part}_image_paths.csv").is_file()]
        if found:
            return found
    return []


def _part_folders(folder: Path, levels: int) -> Iterator[Path]:
    if _PART_FOLDER.fullmatch(folder.name):
        yield folder
    elif levels:
        for child in sorted(folder.iterdir()):
            if child.is_dir():
                yield from _part_folders(child, levels - 1)


def _listed_images(root: Path) -> Iterator[str]:
    for part in ROLES:
        table = root / f"{part}_image_paths.csv"
        if table.is_file():
            yield from (_below_root(row[0]) for row in _rows(table))


def _listed_labels(root: Path) -> dict[str, bool]:
    labels: dict[str, bool] = {}
    for part in ROLES:
        table = root / f"{part}_labeled_studies.csv"
        for number, row in enumerate(_rows(table) if table.is_file() else (), start=1):
            if len(row) != 2 or row[1].strip() not in ("0", "1"):
                raise UsageError(f"{table}, line {number}: expected a study and 0 or 1")
            labels[_below_root(row[0]).rstrip("/")] = row[1].strip() == "1"
    return labels


def _rows(table: Path) -> list[list[str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table} cannot be read: {error}") from error


def _below_root(listed: str) -> str:
    """Remove the first folder of a path in MURA's tables, which may have been renamed."""
    return listed.strip().split("/", 1)[-1]


def _walk(root: Path, skipped: Counter[SkipReason]) -> Iterator[str]:
    def unreadable(_: OSError) -> None:
        skipped[SkipReason.UNREADABLE] += 1

    for parent, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        skipped[SkipReason.LINKED_FOLDER] += sum(Path(parent, name).is_symlink() for name in folders)
        for name in files:
            yield Path(parent, name).relative_to(root).as_posix()


def _require_disjoint_parts(root: Path, examples: list[Example]) -> None:
    roles: dict[str, Role] = {}
    for example in examples:
        if example.role is not None and roles.setdefault(example.group, example.role) != example.role:
            raise UsageError(f"{root}: {example.group} is in both train/ and valid/, so valid/ cannot be the test part")
