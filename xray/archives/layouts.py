"""Decide from a file's path alone which study it belongs to, or why it is skipped."""

import re
from functools import lru_cache
from pathlib import PurePath

from xray.archives.archive_file import MAX_PATH_BYTES, Placement
from xray.vocabulary import Label, Layout, SkipReason

RASTER_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff"})
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic"})
IMAGE_SUFFIXES = RASTER_SUFFIXES | DICOM_SUFFIXES

MANIFEST_NAME = "manifest.csv"

_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found"})
_BODY_PART_FOLDER = re.compile(r"XR_([A-Z]{2,16})", re.IGNORECASE)
_STUDY_FOLDER = re.compile(r"study[0-9]+(?:_(positive|negative))?", re.IGNORECASE)

_OTHER_SUFFIX = re.compile(r"\.[a-z]{1,5}[0-9]?")

_FOLDERS = 64
"""Folders whose answers are kept: a scan finds the files of a folder one after the other."""


def placement_from_path(relative: str, layout: Layout, root: PurePath) -> Placement | SkipReason:
    """Find the study of an image by its path.

    Parameters
    ----------
    relative : str
        The file's path below the root, POSIX.
    layout : Layout
        One that depends on paths only: ``MURA``, ``FOLDER`` or ``FLAT``.
    root : PurePath
        The archive's root. The ``mura`` layout reads its last names too, as the root may be one ``XR_HUMERUS``, one
        patient or one study of a larger tree.

    Returns
    -------
    Placement or SkipReason

    Raises
    ------
    ValueError
        The layout does not depend on paths only.

    Notes
    -----
    ``mura`` is the tree of Rajpurkar et al. 2018: ``XR_<PART>/patient<N>/study<N>_<label>/<image>``, at any depth;
    the label may be missing. A body part that MURA does not have is kept, so that it is reported as out of scope.
    ``folder`` makes a study of each folder that directly holds images; an image directly in the root is its own study.
    ``flat`` makes a study of each image.
    """
    folder, _, name = relative.rpartition("/")
    unusable = check_name(relative)
    if name[name.rfind(".") :].lower() not in IMAGE_SUFFIXES and unusable is not SkipReason.HIDDEN:
        return SkipReason.NOT_AN_IMAGE
    if unusable is not None:
        return unusable
    match layout:
        case Layout.MURA:
            return _mura_placement(folder, root)
        case Layout.FOLDER:
            return Placement(folder or relative)
        case Layout.FLAT:
            return Placement(relative)
        case Layout.AUTO | Layout.DICOM | Layout.MANIFEST:
            raise ValueError(f"the layout {layout} does not depend on paths only")


def check_name(relative: str) -> SkipReason | None:
    """Return why a path below the root cannot be an image's, or None if it can.

    Hidden and system files are not images; databases and reports cannot hold the other names.
    """
    folder, _, name = relative.rpartition("/")
    if is_hidden(name) or _is_in_hidden_folder(folder):
        return SkipReason.HIDDEN
    if not is_utf8(relative):
        return SkipReason.NAME_NOT_UTF8
    if len(relative.encode()) > MAX_PATH_BYTES:
        return SkipReason.PATH_TOO_LONG
    return None


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is hidden: a dot file, or one of macOS, a NAS or a file system."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_utf8(name: str) -> bool:
    """Tell whether a name can be stored and printed; the file system gives bytes that are not UTF-8 as surrogates."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_hidden_path(path: str) -> bool:
    """Tell whether a file, or a folder above it, is hidden."""
    folder, _, name = path.rpartition("/")
    return is_hidden(name) or _is_in_hidden_folder(folder)


def may_be_image(path: str) -> bool:
    """Tell whether a file could be an image by its name: most DICOM files of a CD have no suffix, or a number for one.

    This is not how a scan decides; it is for files that cannot be opened.
    """
    name = path.rpartition("/")[2]
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    known = suffix in IMAGE_SUFFIXES or not _OTHER_SUFFIX.fullmatch(suffix)
    return known and not is_hidden_path(path) and name.upper() != "DICOMDIR"


@lru_cache(_FOLDERS)
def _is_in_hidden_folder(folder: str) -> bool:
    return any(map(is_hidden, folder.split("/")))


@lru_cache(_FOLDERS)
def _mura_placement(folder: str, root: PurePath) -> Placement | SkipReason:
    below = folder.split("/") if folder else []
    folders = (*root.parts[-3:], *below)
    study = _STUDY_FOLDER.fullmatch(folders[-1]) if folders else None
    if study is None:
        return SkipReason.OUTSIDE_LAYOUT
    parts = filter(None, map(_BODY_PART_FOLDER.fullmatch, reversed(folders)))
    body_part = next((part[1].upper() for part in parts), None)
    return Placement(folder if below else root.name, body_part, Label(study[1].lower()) if study[1] else None)
