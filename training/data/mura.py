"""MURA v1.1 (Rajpurkar et al. 2018, arXiv:1712.06957) as downloaded, or any tree in its layout."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

from training.data.dataset import Dataset, Example, Role
from training.data.manifest import OWN
from xray.archives.archive_file import Placement
from xray.archives.layouts import is_hidden, placement_from_path
from xray.errors import UsageError
from xray.network.card import TrainingData
from xray.vocabulary import Label, Layout, SkipReason

PUBLISHED_FOLDER = "MURA-v1.1"
ROLES = {"train": Role.TRAIN, "valid": Role.TEST}
_PATIENT = re.compile(r"patient\w+", re.IGNORECASE)
_PART_FOLDER = re.compile(r"XR_[A-Z_]+", re.IGNORECASE)

MURA = TrainingData(
    name="MURA v1.1",
    role="the weights learnt, thresholds, calibration and metrics",
    licence="Stanford University School of Medicine MURA Dataset Research Use Agreement",
    terms="personal, non-commercial research only; the images may not be redistributed: read the agreement before a "
    "model trained on them is passed on",
    attribution="Rajpurkar et al., MURA: Large Dataset for Abnormality Detection in Musculoskeletal Radiographs, "
    "MIDL 2018, arXiv:1712.06957",
)

NOT_PUBLISHED = (
    f"taken for own data in MURA's layout, as there are neither MURA's tables nor a folder {PUBLISHED_FOLDER}: where "
    "the films are MURA's all the same, Stanford's agreement holds for them"
)


def is_mura(folder: Path) -> bool:
    """Say whether a folder holds MURA: its tables, or ``XR_<PART>`` folders at most three levels down."""
    return bool(_tables(folder)) or any(_part_folders(folder, levels=3))


def read_mura(folder: Path) -> Dataset:
    """Read MURA: by its CSV files where they are, else by its folders' names.

    A study's label is the table's; where there is none, its folder's. Images of ``train/`` are there to learn from and
    those of ``valid/`` to test with, as published. The patient is the group, over all body parts. MURA's terms are
    those of its tables and of a folder ``MURA-v1.1``; another tree in its layout is somebody's own.

    Parameters
    ----------
    folder : Path
        ``MURA-v1.1``, the folder that holds it, or any tree of ``XR_<PART>/patient<N>/study<N>_<label>/<image>``.

    Raises
    ------
    UsageError
        If there is no labelled image, a table is wrong, or a patient is both in ``train/`` and in ``valid/``.
    """
    tables, passed_over = _tables(folder), Counter[SkipReason]()
    root = tables[0].parent if tables else folder
    listed = list(_listed_images(root)) if tables else sorted(_walk(root, passed_over))
    labels = _listed_labels(root) if tables else {}
    examples, unlabelled, contradicted = [], 0, dict[str, None]()
    for path in listed:
        placed = placement_from_path(path, Layout.MURA, root)
        if not isinstance(placed, Placement):
            if tables:
                raise UsageError(
                    f"{root}: {path!r} is listed, and is not XR_<PART>/patient<N>/study<N>_<label>/<image>"
                )
            if placed not in (SkipReason.HIDDEN, SkipReason.NOT_AN_IMAGE):
                passed_over[placed] += 1
            continue
        by_folder = None if placed.human_label is None else placed.human_label is Label.POSITIVE
        label = labels.get(placed.study, by_folder)
        if label is None:
            unlabelled += 1
            continue
        if by_folder not in (None, label):
            contradicted[placed.study] = None
        examples.append(_example(path, placed, label))
    if not examples:
        raise UsageError(f"{folder} has no labelled images in MURA's layout (study1_positive, study1_negative)")
    _require_parted(root, examples)
    notes = _notes(unlabelled, tuple(contradicted), passed_over)
    if tables or _is_named_mura(folder):
        return Dataset(root, MURA, "abnormality", tuple(examples), notes)
    return Dataset(root, OWN, "abnormality", tuple(examples), (NOT_PUBLISHED, *notes))


def _example(path: str, placed: Placement, label: bool) -> Example:
    folders = PurePosixPath(path).parts[:-1]
    patient = next((name.lower() for name in folders if _PATIENT.fullmatch(name)), placed.study)
    above = takewhile(lambda name: not _PART_FOLDER.fullmatch(name), folders)
    role = next((ROLES[name] for name in reversed(list(above)) if name in ROLES), None)
    return Example(path, placed.study, patient, label, placed.body_part, role)


def _notes(unlabelled: int, contradicted: Sequence[str], passed_over: Counter[SkipReason]) -> tuple[str, ...]:
    notes = []
    if unlabelled:
        notes.append(f"{unlabelled:,} images without a label were left out")
    if contradicted:
        notes.append(
            f"{len(contradicted):,} studies have one label in the table and another in their folder's name, and the "
            f"table's counts: {', '.join(contradicted[:3])}"
        )
    counted = [f"{reason} ({passed_over[reason]:,})" for reason in SkipReason if passed_over[reason]]
    if counted:
        notes.append(f"image files or folders were passed over: {', '.join(counted)}")
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
                raise UsageError(f"{table}, line {number}: not a study and 0 or 1")
            labels[_below_root(row[0]).rstrip("/")] = row[1].strip() == "1"
    return labels


def _rows(table: Path) -> list[list[str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table} cannot be read: {error}") from error


def _below_root(listed: str) -> str:
    """Cut the folder off that MURA's tables name first, whatever it has been renamed to."""
    return listed.strip().split("/", 1)[-1]


def _walk(root: Path, passed_over: Counter[SkipReason]) -> Iterator[str]:
    def unreadable(_: OSError) -> None:
        passed_over[SkipReason.UNREADABLE] += 1

    for parent, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        passed_over[SkipReason.LINKED_FOLDER] += sum(Path(parent, name).is_symlink() for name in folders)
        for name in files:
            yield Path(parent, name).relative_to(root).as_posix()


def _require_parted(root: Path, examples: list[Example]) -> None:
    roles: dict[str, Role] = {}
    for example in examples:
        if example.role is not None and roles.setdefault(example.group, example.role) != example.role:
            raise UsageError(f"{root}: {example.group} is both in train/ and in valid/, so valid/ cannot test a model")
