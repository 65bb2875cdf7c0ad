"""Detect an archive's layout from a sample of its files; the work is bounded, however large the archive is."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice, zip_longest
from pathlib import Path, PurePath, PurePosixPath

from producer.selection import ALL
from producer.source import Source
from producer.walk import list_root
from xray.archives.archive_file import ArchiveFile, Placement
from xray.archives.containers import list_members
from xray.archives.files import is_below_root, is_single_file, open_image
from xray.archives.layouts import MANIFEST_NAME, RASTER_SUFFIXES, is_hidden, placement_from_path
from xray.archives.members import is_container
from xray.archives.storage_errors import skip_reason
from xray.dicomweb import DicomWebService
from xray.errors import ContainerFault, FileFault, UsageError
from xray.images.dicom.header import HEAD_BYTES, is_dicom
from xray.vocabulary import Layout

FOLDER_MAX_IMAGES = 20
"""A folder with more images is not one study but a collection: MURA's largest studies have about a dozen."""

SAMPLE_DEPTH = 10
SAMPLE_FOLDERS = 64
SAMPLE_ENTRIES = 4 * FOLDER_MAX_IMAGES
SAMPLE_CONTAINERS = 4
SAMPLE_OPENED = 3
"""Files of a folder that are opened to see whether they are DICOM."""


def choose_layout(name: str, source: Source, earlier: str | None) -> Source:
    """Return a source with its layout decided: as the user says, as in an earlier scan, or as detected.

    Parameters
    ----------
    name : str
        The archive's name.
    source : Source
        With the layout that the user asks for, or ``AUTO``.
    earlier : str or None
        The layout of an earlier scan.

    Raises
    ------
    UsageError
        The user asks for a different layout than that of the earlier scan, or for a layout of a service or some studies
        of a folder, or there is nothing to scan.
    ArchiveOutage
        The storage does not answer.
    """
    if isinstance(source.root, DicomWebService):
        if source.layout not in (Layout.AUTO, Layout.DICOM):
            raise UsageError(f"{source.root} is a DICOMweb service, which knows its studies; leave out --layout")
        source = replace(source, layout=Layout.DICOM)
    elif source.selection != ALL:
        raise UsageError(f"{source.root} is no DICOMweb service; --since and --modality are for those only")
    elif source.layout is not Layout.AUTO and is_single_file(source.root):
        raise UsageError(f"{source.root} is one image; --layout is for folders, zips and tars")
    if earlier is None:
        chosen = detect_layout(source.path) if source.layout is Layout.AUTO else source.layout
    elif source.layout in (Layout.AUTO, Layout(earlier)):
        chosen = Layout(earlier)
    else:
        raise UsageError(
            f"the archive {name!r} was scanned with --layout {earlier} before; "
            f"use that layout again, or give the archive a different name in BONESCREEN_ARCHIVES"
        )
    return replace(source, layout=chosen)


def detect_layout(root: Path) -> Layout:
    """Detect an archive's layout.

    A root that is an image is ``dicom`` or ``flat``, by its content. Otherwise it is ``manifest`` if there is a
    ``manifest.csv`` in the root; otherwise `layout_of_sample` decides. The sample
    covers `SAMPLE_DEPTH` levels, at each of them `SAMPLE_FOLDERS` folders, taken in turn from different parents, and in
    each of these the first `SAMPLE_ENTRIES` entries; and the members of `SAMPLE_CONTAINERS` containers.

    Raises
    ------
    UsageError
        There is nothing to read at `root`, or it cannot be listed.
    ArchiveOutage
        The storage does not answer.
    """
    if is_single_file(root):
        return _single_file_layout(root)
    if is_container(root.name) and root.is_file():
        sample = list(_container_sample(root, ""))
        has_manifest = MANIFEST_NAME in sample
    else:
        list_root(root).close()
        sample = _tree_sample(root)
        # A sample of a root with many files need not include it.
        has_manifest = (root / MANIFEST_NAME).is_file()
        for container in list(islice(filter(is_container, sample), SAMPLE_CONTAINERS)):
            sample += (f"{container}/{member}" for member in _container_sample(root, container))
    return Layout.MANIFEST if has_manifest else layout_of_sample(sample, root, dicom=_dicom_files(root, sample))


def _single_file_layout(root: Path) -> Layout:
    # Imported here, as Pillow takes time that a scan of a folder does not need.
    from xray.images.decode import is_image

    with open_image(root, root.name) as file:
        head = file.read(HEAD_BYTES)
    if not is_image(head):
        raise UsageError(f"{root} is not a folder; name the folder that holds the X-ray studies, or an image")
    return Layout.DICOM if is_dicom(head) else Layout.FLAT


def layout_of_sample(sample: Iterable[str], root: PurePath, dicom: int = 0) -> Layout:
    """Choose a layout for a sample of an archive's paths.

    It is ``mura`` if at least half of the images are in folders with the names of MURA's studies. Otherwise it is
    ``dicom`` if there is a DICOM file for each ten other images: those may be a viewer's icons, and any other layout
    would skip DICOM files without an extension. Otherwise it is ``folder`` if most of the folders that hold images,
    except the root, have at most `FOLDER_MAX_IMAGES`. Otherwise it is ``flat``.

    Parameters
    ----------
    sample : iterable of str
        Paths below the root, POSIX; from a folder with many images, more than `FOLDER_MAX_IMAGES`.
    root : PurePath
        The archive's root.
    dicom : int
        How many of the files are DICOM, by their content.
    """
    images = [path for path in sample if isinstance(placement_from_path(path, Layout.FLAT, root), Placement)]
    in_studies = sum(isinstance(placement_from_path(path, Layout.MURA, root), Placement) for path in images)
    if images and 2 * in_studies >= len(images):
        return Layout.MURA
    rasters = sum(PurePosixPath(path).suffix.lower() in RASTER_SUFFIXES for path in images)
    if dicom and 10 * dicom >= rasters:
        return Layout.DICOM
    folders = Counter(PurePosixPath(path).parent.as_posix() for path in images)
    del folders["."]
    small = sum(count <= FOLDER_MAX_IMAGES for count in folders.values())
    return Layout.FOLDER if folders and 2 * small > len(folders) else Layout.FLAT


def _tree_sample(root: Path) -> list[str]:
    sample: list[str] = []
    level = [""]
    for _ in range(SAMPLE_DEPTH):
        subfolders = []
        for folder in level[:SAMPLE_FOLDERS]:
            try:
                subfolders.append(_sample_folder(root, folder, sample))
            except OSError as error:
                # Only an outage matters here; the scan reports the folder.
                skip_reason(root, folder, error)
        level = [folder for folder in chain.from_iterable(zip_longest(*subfolders)) if folder]
    return sample


def _sample_folder(root: Path, folder: str, sample: list[str]) -> list[str]:
    """Add the first files of a folder to the sample; return the folders among its first entries."""
    prefix = folder + "/" if folder else ""
    folders = []
    with os.scandir(root / folder) as entries:
        for entry in islice(entries, SAMPLE_ENTRIES):
            if entry.is_dir(follow_symlinks=False):
                if not is_hidden(entry.name):
                    folders.append(prefix + entry.name)
            else:
                sample.append(prefix + entry.name)
    return folders


def _container_sample(root: Path, container: str) -> Iterator[str]:
    files: Counter[str] = Counter()
    try:
        if container and not is_below_root(root, container):
            return
        for member in list_members(root / container):
            folder = os.path.dirname(member.path)
            has_room = folder in files or len(files) < SAMPLE_DEPTH * SAMPLE_FOLDERS
            chosen = member.path == MANIFEST_NAME or (has_room and files[folder] < SAMPLE_ENTRIES)
            if isinstance(member, ArchiveFile) and chosen:
                files[folder] += 1
                yield member.path
    except (ContainerFault, FileFault):
        # The scan reports it.
        return
    except OSError as error:
        skip_reason(root, container, error)


def _dicom_files(root: Path, sample: list[str]) -> int:
    """Estimate how many files of a sample are DICOM, from the content of a few of each folder."""
    folders: dict[str, list[str]] = {}
    for path in sample:
        name = PurePosixPath(path)
        if name.suffix.lower() not in RASTER_SUFFIXES and not is_hidden(name.name) and not is_container(name.name):
            folders.setdefault(os.path.dirname(path), []).append(path)
    estimate = 0.0
    for paths in islice(folders.values(), SAMPLE_FOLDERS):
        opened = paths[:SAMPLE_OPENED]
        estimate += len(paths) * sum(_is_dicom(root, path) for path in opened) / len(opened)
    return round(estimate)


def _is_dicom(root: Path, path: str) -> bool:
    try:
        with open_image(root, path) as file:
            return is_dicom(file.read(HEAD_BYTES))
    except FileFault:
        return False
