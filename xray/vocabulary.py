"""Terms that all packages share, such as labels, statuses and why images fail or are skipped; counts in words."""

from enum import StrEnum

RESEARCH_NOTICE = "For research only, not for diagnosis."


class Label(StrEnum):
    """A finding's label; human or predicted, as the context says."""

    POSITIVE = "positive"
    NEGATIVE = "negative"


class Precision(StrEnum):
    """The number format that a network's convolutions are computed in; its head and its CAM are float32 in each.

    Part of the model version, as each gives slightly different numbers.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


class StudyStatus(StrEnum):
    """The status of a study in a run. Only ``SCORED`` may be shown as positive or negative."""

    PENDING = "pending"
    SCORED = "scored"
    INCOMPLETE = "incomplete"
    NOT_ASSESSABLE = "not assessable"
    OUT_OF_SCOPE = "out of scope"


class Decision(StrEnum):
    """What a person decides on a study's result."""

    AGREE = "agree"
    DISAGREE = "disagree"
    UNSURE = "unsure"


class ImageState(StrEnum):
    """How an image counts in its study's score; only ``SCORED`` ones do."""

    SCORED = "scored"
    COPY = "copy"
    FOR_PROCESSING = "for processing"
    OUT_OF_SCOPE = "out of scope"
    FAILED = "failed"
    PENDING = "pending"


UNLIKE = "unlike what the model has learnt from"
"""Why an image is out of scope whose features are too far from those of the training images."""

FOR_PRESENTATION, FOR_PROCESSING = "FOR PRESENTATION", "FOR PROCESSING"
"""DICOM's Presentation Intent Type (PS3.3 C.8.11.1.1.1): a finished image, and the detector's raw one."""

KEEP = ("accession", "date", "modality", "path")
"""What ``BONESCREEN_KEEP`` may name: what is shown of a study only if it is asked for."""

RADIOGRAPHY = ("CR", "DX", "RG")
"""DICOM's modalities of plain radiographs (PS3.3 C.7.3.1.1.1)."""


class BatchState(StrEnum):
    """The states of a batch: ``pending -> claimed -> done | split | quarantined | cancelled``."""

    PENDING = "pending"
    CLAIMED = "claimed"
    DONE = "done"
    SPLIT = "split"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"


OPEN_STATES = (BatchState.PENDING, BatchState.CLAIMED)


class Reason(StrEnum):
    """Why an image has no prediction."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    IMPLAUSIBLE = "implausible"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED = "unsupported"
    MULTI_FRAME = "multi_frame"
    NOT_RADIOGRAPH = "not_radiograph"
    NO_PIXELS = "no_pixels"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    UNREADABLE = "unreadable"
    VANISHED = "vanished"
    CHANGED = "changed"
    BROKEN_LINK = "broken_link"
    OUTSIDE_ARCHIVE = "outside_archive"
    QUARANTINED = "quarantined"


REASON_TEXT: dict[Reason, str] = {
    Reason.EMPTY: "the file is empty",
    Reason.TRUNCATED: "the file ends before the image does",
    Reason.CORRUPT: "the image data are damaged",
    Reason.IMPLAUSIBLE: "the picture cannot be a radiograph",
    Reason.NOT_AN_IMAGE: "the content is not PNG, JPEG, TIFF or DICOM",
    Reason.UNSUPPORTED: "the pixel format is not supported",
    Reason.MULTI_FRAME: "the file holds more than one frame",
    Reason.NOT_RADIOGRAPH: "the DICOM object is not a projection radiograph",
    Reason.NO_PIXELS: "the DICOM object contains no pixel data",
    Reason.TOO_LARGE: "the file exceeds the file size limit",
    Reason.TOO_MANY_PIXELS: "the image exceeds the pixel limit",
    Reason.UNREADABLE: "the file cannot be opened",
    Reason.VANISHED: "the file is no longer in the archive",
    Reason.CHANGED: "the file has changed since it was scanned: scan the archive again",
    Reason.BROKEN_LINK: "the file that the link points to does not exist",
    Reason.OUTSIDE_ARCHIVE: "the path points outside the archive",
    Reason.QUARANTINED: "three attempts at this image on its own ended without a result",
}

_COPY_AGAIN = "Copy the file again from where it came from, then read it again."
_NOT_SCREENED = "bonescreen does not screen such files: move it out of the archive, then scan again."
REASON_REMEDY: dict[Reason, str] = {
    Reason.EMPTY: _COPY_AGAIN,
    Reason.TRUNCATED: _COPY_AGAIN,
    Reason.CORRUPT: _COPY_AGAIN,
    Reason.IMPLAUSIBLE: "Open it with a viewer: if it shows a radiograph, export it again, then read it again.",
    Reason.NOT_AN_IMAGE: _NOT_SCREENED,
    Reason.UNSUPPORTED: "Export it as an ordinary DICOM or PNG file, then scan again.",
    Reason.MULTI_FRAME: "Export the frame that is meant as a file of its own, then scan again.",
    Reason.NOT_RADIOGRAPH: _NOT_SCREENED,
    Reason.NO_PIXELS: _NOT_SCREENED,
    Reason.TOO_LARGE: "Export it at its usual size: no ordinary radiograph is that large.",
    Reason.TOO_MANY_PIXELS: "Export it at its usual size: no ordinary radiograph has so many pixels.",
    Reason.UNREADABLE: "Give the user that runs the workers the right to read it, then read it again.",
    Reason.VANISHED: "Put it back and read it again, or scan again so that it is no longer expected.",
    Reason.CHANGED: "Scan the archive again.",
    Reason.BROKEN_LINK: "Put the file that it leads to in its place, then read it again.",
    Reason.OUTSIDE_ARCHIVE: "Put the file itself into the archive, then scan again.",
    Reason.QUARANTINED: (
        "Where workers were killed for lack of memory (see the kernel's log), give them more, then read it again."
    ),
}
"""What to do about each reason."""


class Repair(StrEnum):
    """What a file says wrongly about its pixels, which were therefore read otherwise; the values are stored."""

    SYNTAX = "the pixels are not stored as the transfer syntax says"
    SAMPLING = "the pixels have other colour channels than the header says"
    BITS_STORED = "the pixels use other bits than the header says"
    SIGN = "the header is wrong on whether pixel values have a sign"
    BYTE_ORDER = "the two bytes of each pixel are swapped"
    WINDOW = "the window does not fit the pixels"
    CONTRADICTION = "the header says both that white is zero and that black is"


# MURA's seven upper-limb parts (Rajpurkar et al. 2018) and the other DICOM Body Part Examined terms
# (PS3.16 Annex L) that limb archives use.
BODY_PARTS = (
    "ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST",
    "ANKLE", "CLAVICLE", "FEMUR", "FOOT", "HIP", "KNEE", "LEG", "PELVIS", "TOE",
)  # fmt: skip


class Layout(StrEnum):
    """How an archive's files are grouped in studies."""

    AUTO = "auto"
    MURA = "mura"
    FOLDER = "folder"
    FLAT = "flat"
    DICOM = "dicom"
    MANIFEST = "manifest"


class SkipReason(StrEnum):
    """Why a scan skips a file or folder; the values are stored, `describe_skipped` writes them as text."""

    HIDDEN = "hidden"
    NOT_AN_IMAGE = "not an image"
    OUTSIDE_LAYOUT = "outside the layout"
    NAME_NOT_UTF8 = "name not UTF-8"
    LINKED_FOLDER = "linked folder"
    SPECIAL_FILE = "special file"
    UNREADABLE = "unreadable"
    NESTED_TOO_DEEP = "nested too deep"
    PATH_TOO_LONG = "path too long"
    VANISHED = "vanished during the scan"
    OUTSIDE_ARCHIVE = "path leads outside"
    IMPOSSIBLE_NAME = "name no file can have"
    DUPLICATE_NAME = "name twice in a container"
    DAMAGED_CONTAINER = "damaged container"
    CONTAINER_TOO_LARGE = "container over a cap"
    COMPRESSED_TAR = "compressed tar"
    NESTED_CONTAINER = "container in a container"
    ENCRYPTED_CONTAINER = "encrypted container"
    UNKNOWN_PACKING = "container packed in an unknown way"
    UNREADABLE_MEMBERS = "encrypted or oddly packed files in a container"
    BROKEN_LINK = "broken link"
    STILL_WRITTEN = "still being written"
    MULTI_FRAME = "multi-frame DICOM"
    NO_PIXELS = "DICOM without pixels"
    EMPTIED_FOLDER = "emptied folder"
    NO_RADIOGRAPHS = "without radiographs"


SKIP_TEXT: dict[SkipReason, tuple[str, str]] = {
    SkipReason.HIDDEN: ("hidden file or folder", "hidden files and folders"),
    SkipReason.NOT_AN_IMAGE: ("file that is not an image", "files that are not images"),
    SkipReason.OUTSIDE_LAYOUT: ("image that does not fit the layout", "images that do not fit the layout"),
    SkipReason.NAME_NOT_UTF8: ("name that is not UTF-8", "names that are not UTF-8"),
    SkipReason.LINKED_FOLDER: ("link to a folder", "links to folders"),
    SkipReason.SPECIAL_FILE: ("special file", "special files"),
    SkipReason.UNREADABLE: ("file or folder that cannot be read", "files and folders that cannot be read"),
    SkipReason.NESTED_TOO_DEEP: ("folder that is nested too deeply", "folders that are nested too deeply"),
    SkipReason.PATH_TOO_LONG: ("path that is too long", "paths that are too long"),
    SkipReason.VANISHED: ("file that vanished during the scan", "files that vanished during the scan"),
    SkipReason.OUTSIDE_ARCHIVE: ("path that points outside the archive", "paths that point outside the archive"),
    SkipReason.IMPOSSIBLE_NAME: ("invalid file name", "invalid file names"),
    SkipReason.DUPLICATE_NAME: ("repeated name in a zip or tar", "repeated names in zips or tars"),
    SkipReason.DAMAGED_CONTAINER: ("damaged zip or tar", "damaged zips or tars"),
    SkipReason.CONTAINER_TOO_LARGE: ("zip or tar that is too large", "zips or tars that are too large"),
    SkipReason.COMPRESSED_TAR: ("compressed tar", "compressed tars"),
    SkipReason.NESTED_CONTAINER: (
        "zip or tar with archives packed too deep in it",
        "zips or tars with archives packed too deep in them",
    ),
    SkipReason.ENCRYPTED_CONTAINER: ("encrypted zip", "encrypted zips"),
    SkipReason.UNKNOWN_PACKING: ("zip packed in an unknown way", "zips packed in an unknown way"),
    SkipReason.UNREADABLE_MEMBERS: (
        "zip with some files encrypted or packed in an unknown way",
        "zips with some files encrypted or packed in an unknown way",
    ),
    SkipReason.BROKEN_LINK: ("broken link", "broken links"),
    SkipReason.STILL_WRITTEN: ("file that is still being written", "files that are still being written"),
    SkipReason.MULTI_FRAME: ("DICOM file with several frames", "DICOM files with several frames"),
    SkipReason.NO_PIXELS: ("DICOM file without pixels", "DICOM files without pixels"),
    SkipReason.EMPTIED_FOLDER: (
        "folder that held images and is empty now",
        "folders that held images and are empty now",
    ),
    SkipReason.NO_RADIOGRAPHS: ("study or series without radiographs", "studies and series without radiographs"),
}
"""Each reason as a noun, for one file and for several."""

_UNPACK = "unpack it, then screen the folder"
SKIP_REMEDY: dict[SkipReason, str] = {
    SkipReason.NAME_NOT_UTF8: "rename it, then scan again",
    SkipReason.LINKED_FOLDER: "screen the folder that it leads to",
    SkipReason.SPECIAL_FILE: "put the file itself in its place, then scan again",
    SkipReason.UNREADABLE: "give this user the right to read it, then scan again",
    SkipReason.NESTED_TOO_DEEP: "screen the nested folder itself",
    SkipReason.PATH_TOO_LONG: "shorten its path, then scan again",
    SkipReason.OUTSIDE_ARCHIVE: "screen the folder that it leads to",
    SkipReason.IMPOSSIBLE_NAME: "pack it again under another name",
    SkipReason.DUPLICATE_NAME: "pack it again with each name once",
    SkipReason.DAMAGED_CONTAINER: "copy it again, or repair it (zip -FF), then scan again",
    SkipReason.CONTAINER_TOO_LARGE: _UNPACK,
    SkipReason.COMPRESSED_TAR: "unpack it (tar xf), then screen the folder",
    SkipReason.NESTED_CONTAINER: "unpack it and what is packed in it, then screen the folder",
    SkipReason.ENCRYPTED_CONTAINER: "unpack it with its password (7z x FILE), then screen the folder",
    SkipReason.UNKNOWN_PACKING: "unpack it (7z x FILE), then screen the folder",
    SkipReason.UNREADABLE_MEMBERS: "unpack it (7z x FILE asks for a password if it has one), then screen the folder",
    SkipReason.BROKEN_LINK: "put the file that it leads to in its place, then scan again",
    SkipReason.EMPTIED_FOLDER: "mount it again, then scan again; if it was emptied on purpose, only scan again",
}
"""What to do about each reason that leaves a part of an archive unseen until somebody does something."""


UNSEEN = frozenset(SKIP_REMEDY)
"""Reasons that leave a part of an archive unseen: it may hold images that somebody wants to screen."""


def reason_text(reason: str) -> str:
    """Say in words why an image has no prediction."""
    return REASON_TEXT[Reason(reason)] if reason in set(Reason) else "unknown to this version of bonescreen"


def describe_skipped(reason: str, number: int) -> str:
    """Describe skipped files as text, as in "2 files that are not images".

    Parameters
    ----------
    reason : str
        A `SkipReason`, or the name of the SOP class of DICOM files that are not radiographs.
    number : int
        How many were skipped.
    """
    try:
        one, several = SKIP_TEXT[SkipReason(reason)]
    except ValueError:
        one = f"DICOM file that is not a radiograph ({reason})"
        several = f"DICOM files that are not radiographs ({reason})"
    return f"{number:,} {one if number == 1 else several}"


def count(number: int, thing: str) -> str:
    """Write a number with its noun: ``1 batch``, ``2,000 images``, ``2 studies``, ``3 epochs``."""
    if thing.endswith("y"):
        plural = thing[:-1] + "ies"
    else:
        # Not an epoch, whose ending is spoken as a k.
        plural = thing + ("es" if thing.endswith("ch") and not thing.endswith("epoch") else "s")
    return f"{number:,} {thing if number == 1 else plural}"
