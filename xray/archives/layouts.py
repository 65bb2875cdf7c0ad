"""Which study a file of an archive belongs to, told from its path alone."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath

from xray.vocabulary import Label, Layout, SkipReason


@dataclass(frozen=True, slots=True)
class Placement:
    """An image's place.

    Parameters
    ----------
    study : str
        The study's key in the archive: the study folder's path below the root, or the image's own.
    body_part : str or None
        A DICOM Body Part Examined term (PS3.16 Annex L), when the layout tells one.
    human_label : Label or None
        The study's human label, when the layout tells one.
    view : str or None
        The view, such as DICOM's View Position (0018,5101): ``AP``, ``LL``.
    laterality : str or None
        DICOM's Image Laterality (0020,0062): ``L``, ``R``, ``B`` or ``U``.
    series : str or None
        DICOM's Series Instance UID (0020,000E).
    patient : str or None
        A keyed hash of who the patient is, 32 hexadecimal digits.
    """

    study: str
    body_part: str | None = None
    human_label: Label | None = None
    view: str | None = None
    laterality: str | None = None
    series: str | None = None
    patient: str | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """A file that makes no image of a study."""

    reason: SkipReason


RASTER_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff"})
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic"})
IMAGE_SUFFIXES = RASTER_SUFFIXES | DICOM_SUFFIXES

MANIFEST_NAME = "manifest.csv"

MAX_PATH_BYTES = 1000
"""PostgreSQL indexes no more than 2,700 bytes a row, and a flat archive's rows hold the path twice."""

FOLDER_MAX_IMAGES = 20
"""A folder with more images is taken for a collection: MURA's largest studies have about a dozen."""

_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found"})
_BODY_PART_FOLDER = re.compile(r"XR_([A-Z]{2,16})", re.IGNORECASE)
_STUDY_FOLDER = re.compile(r"study[0-9]+(?:_(positive|negative))?", re.IGNORECASE)


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is the system's.

    That is a dot file, or what macOS, NAS boxes
    and file systems leave.
    """
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_utf8(name: str) -> bool:
    """Tell whether a name can be stored and shown; bytes that are no UTF-8 come from the file system as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def place(relative: str, layout: Layout, root: PurePath) -> Placement | Skip:
    """Place a file in its study.

    Parameters
    ----------
    relative : str
        The file's path below the root, POSIX. A name that is no UTF-8 (surrogates in it) is skipped, as neither a
        database nor a report could hold it.
    layout : Layout
        One that goes by paths: ``MURA``, ``FOLDER`` or ``FLAT``.
    root : PurePath
        The archive's root. Its last names count too in the ``mura`` layout, as somebody may screen one
        ``XR_HUMERUS``, one patient or one study of a larger tree.

    Returns
    -------
    Placed or Skip

    Notes
    -----
    ``mura`` is the tree of Rajpurkar et al. 2018: ``XR_<PART>/patient<N>/study<N>_<label>/<image>``, at any depth;
    the label may be missing. A part that is no MURA part is kept, so that it shows as out of scope.
    ``folder`` makes a study of each folder that directly holds images; an image loose in the root is its own study.
    ``flat`` makes a study of each image.
    """
    path = PurePosixPath(relative)
    refused = refuse_name(relative)
    if path.suffix.lower() not in IMAGE_SUFFIXES and refused != Skip(SkipReason.HIDDEN):
        return Skip(SkipReason.NOT_AN_IMAGE)
    if refused is not None:
        return refused
    folder = path.parent.as_posix()
    match layout:
        case Layout.MURA:
            return _place_mura(path, root)
        case Layout.FOLDER:
            return Placement(relative if folder == "." else folder)
        case Layout.FLAT:
            return Placement(relative)
        case Layout.AUTO | Layout.DICOM | Layout.MANIFEST:
            raise ValueError(f"{layout} does not go by paths")


def refuse_name(relative: str) -> Skip | None:
    """Refuse a path, below the root, that no database or report could hold, or that is the system's; None if well."""
    if any(is_hidden(part) for part in PurePosixPath(relative).parts):
        return Skip(SkipReason.HIDDEN)
    if not is_utf8(relative):
        return Skip(SkipReason.NAME_NOT_UTF8)
    if len(relative.encode()) > MAX_PATH_BYTES:
        return Skip(SkipReason.PATH_TOO_LONG)
    return None


def detect_layout(sample: Iterable[str], root: PurePath, dicom: int = 0) -> Layout:
    """Choose a layout by a sample of an archive's paths.

    ``mura`` when at least half of the images lie in folders named as MURA names a study; else ``dicom`` when there is a
    DICOM file for each ten other images, as those may be a viewer's icons, beside which DICOM without extensions would
    be taken for no image; else ``folder`` when most of the folders that hold images, the root aside, have no more than
    `FOLDER_MAX_IMAGES`; else ``flat``.

    Parameters
    ----------
    sample : iterable of str
        Paths below the root, POSIX; of a folder with many images, more than `FOLDER_MAX_IMAGES`.
    root : PurePath
        The archive's root.
    dicom : int
        How many of the files are DICOM, by their content.
    """
    images = [path for path in sample if isinstance(place(path, Layout.FLAT, root), Placement)]
    in_studies = sum(isinstance(place(path, Layout.MURA, root), Placement) for path in images)
    if images and 2 * in_studies >= len(images):
        return Layout.MURA
    rasters = sum(PurePosixPath(path).suffix.lower() in RASTER_SUFFIXES for path in images)
    if dicom and 10 * dicom >= rasters:
        return Layout.DICOM
    folders = Counter(PurePosixPath(path).parent.as_posix() for path in images)
    del folders["."]
    small = sum(count <= FOLDER_MAX_IMAGES for count in folders.values())
    return Layout.FOLDER if folders and 2 * small > len(folders) else Layout.FLAT


def _place_mura(path: PurePosixPath, root: PurePath) -> Placement | Skip:
    folders = (*root.parts[-3:], *path.parent.parts)
    study = _STUDY_FOLDER.fullmatch(folders[-1]) if folders else None
    if study is None:
        return Skip(SkipReason.OUTSIDE_LAYOUT)
    parts = filter(None, map(_BODY_PART_FOLDER.fullmatch, reversed(folders)))
    body_part = next((part[1].upper() for part in parts), None)
    key = path.parent.as_posix() if path.parent.parts else root.name
    return Placement(key, body_part, Label(study[1].lower()) if study[1] else None)
