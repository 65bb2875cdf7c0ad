"""Look into an archive and tell its layout; the work is bounded, however large the archive."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path, PurePosixPath

from producer.walk import list_root, trouble
from xray.archives.containers import Member, list_members
from xray.archives.files import is_single_file, lies_below, open_image
from xray.archives.layouts import FOLDER_MAX_IMAGES, MANIFEST_NAME, RASTER_SUFFIXES, detect_layout, is_hidden
from xray.archives.members import is_container
from xray.errors import ContainerFault, FileFault, UsageError
from xray.images.dicom.header import HEAD, is_dicom
from xray.vocabulary import Layout

SURVEY_DEPTH = 10
SURVEY_FOLDERS = 64
SURVEY_ENTRIES = 4 * FOLDER_MAX_IMAGES
SURVEY_CONTAINERS = 4
SURVEY_OPENED = 3
"""Files of a folder that are opened to see if they are DICOM."""


def survey(root: Path) -> Layout:
    """Look into an archive and tell its layout.

    A root that is an image is ``dicom`` or ``flat``, by its content.

    ``manifest`` where there is a ``manifest.csv`` in the root; else `detect_layout` decides by a sample. At each of the
    first `SURVEY_DEPTH` levels, at most `SURVEY_FOLDERS` folders are looked into, taken in turn from
    different parents, and of each the first `SURVEY_ENTRIES` entries; of the containers met, `SURVEY_CONTAINERS`.

    Raises
    ------
    UsageError
        There is nothing to read at `root`, or it may not be listed.
    ArchiveOutage
        The storage does not answer.
    """
    if is_single_file(root):
        return _of_single_file(root)
    if is_container(root.name) and root.is_file():
        sample = list(_of_container(root, ""))
        listed = MANIFEST_NAME in sample
    else:
        list_root(root).close()
        sample = _of_tree(root)
        # The sample need not hold it, where many files lie beside it.
        listed = (root / MANIFEST_NAME).is_file()
        for container in list(islice(filter(is_container, sample), SURVEY_CONTAINERS)):
            sample += (f"{container}/{member}" for member in _of_container(root, container))
    return Layout.MANIFEST if listed else detect_layout(sample, root, dicom=_dicom_files(root, sample))


def _of_single_file(root: Path) -> Layout:
    # Pillow takes time to import, which those who scan folders need not wait for.
    from xray.images.decode import is_image

    with open_image(root, root.name) as file:
        head = file.read(HEAD)
    if not is_image(head):
        raise UsageError(f"{root} is not a folder; name the folder that holds the X-ray studies, or an image")
    return Layout.DICOM if is_dicom(head) else Layout.FLAT


def _of_tree(root: Path) -> list[str]:
    sample: list[str] = []
    level = [""]
    for _ in range(SURVEY_DEPTH):
        children = []
        for folder in level[:SURVEY_FOLDERS]:
            try:
                children.append(_look(root, folder, sample))
            except OSError as error:
                trouble(root, error)
        level = [folder for folder in chain.from_iterable(zip_longest(*children)) if folder]
    return sample


def _look(root: Path, folder: str, sample: list[str]) -> list[str]:
    prefix = folder + "/" if folder else ""
    folders = []
    with os.scandir(root / folder) as entries:
        for entry in islice(entries, SURVEY_ENTRIES):
            if entry.is_dir(follow_symlinks=False):
                if not is_hidden(entry.name):
                    folders.append(prefix + entry.name)
            else:
                sample.append(prefix + entry.name)
    return folders


def _of_container(root: Path, container: str) -> Iterator[str]:
    held: Counter[str] = Counter()
    try:
        if container and not lies_below(root, container):
            return
        for member in list_members(root / container):
            folder = os.path.dirname(member.path)
            known = folder in held or len(held) < SURVEY_DEPTH * SURVEY_FOLDERS
            chosen = member.path == MANIFEST_NAME or (known and held[folder] < SURVEY_ENTRIES)
            if isinstance(member, Member) and chosen:
                held[folder] += 1
                yield member.path
    except (ContainerFault, FileFault):
        # The scan itself tells.
        return
    except OSError as error:
        trouble(root, error)


def _dicom_files(root: Path, sample: list[str]) -> int:
    """Estimate how many files of a sample are DICOM, which no name tells: a few of each folder are opened."""
    folders: dict[str, list[str]] = {}
    for path in sample:
        name = PurePosixPath(path)
        if name.suffix.lower() not in RASTER_SUFFIXES and not is_hidden(name.name) and not is_container(name.name):
            folders.setdefault(os.path.dirname(path), []).append(path)
    found = 0.0
    for paths in islice(folders.values(), SURVEY_FOLDERS):
        opened = paths[:SURVEY_OPENED]
        found += len(paths) * sum(_is_dicom(root, path) for path in opened) / len(opened)
    return round(found)


def _is_dicom(root: Path, path: str) -> bool:
    try:
        with open_image(root, path) as file:
            return is_dicom(file.read(HEAD))
    except FileFault:
        return False
