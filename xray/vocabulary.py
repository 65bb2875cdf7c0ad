"""The words that all rooms share: labels, statuses, reason codes, body parts."""

from enum import StrEnum

RESEARCH_NOTICE = "For research only, not for diagnosis."


class Label(StrEnum):
    """A finding's label, human or predicted; the user of the word says which."""

    POSITIVE = "positive"
    NEGATIVE = "negative"


class StudyStatus(StrEnum):
    """What a run can say of a study. Only ``SCORED`` may be shown as positive or negative."""

    PENDING = "pending"
    SCORED = "scored"
    INCOMPLETE = "incomplete"
    NOT_ASSESSABLE = "not assessable"
    OUT_OF_SCOPE = "out of scope"


class BatchState(StrEnum):
    """The ledger's states: ``pending -> sent -> claimed -> done | split | quarantined | cancelled``."""

    PENDING = "pending"
    SENT = "sent"
    CLAIMED = "claimed"
    DONE = "done"
    SPLIT = "split"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"


OPEN_STATES = (BatchState.PENDING, BatchState.SENT, BatchState.CLAIMED)


class Reason(StrEnum):
    """Why an image has no prediction."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
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
    Reason.EMPTY: "the file has no bytes",
    Reason.TRUNCATED: "the file ends before the image does",
    Reason.CORRUPT: "the image data are damaged",
    Reason.NOT_AN_IMAGE: "the content is not PNG, JPEG, TIFF or DICOM",
    Reason.UNSUPPORTED: "the pixel format is not supported",
    Reason.MULTI_FRAME: "the file holds more than one frame",
    Reason.NOT_RADIOGRAPH: "the DICOM object is not a projection radiograph",
    Reason.NO_PIXELS: "the DICOM object holds no pixels",
    Reason.TOO_LARGE: "the file is over the byte cap",
    Reason.TOO_MANY_PIXELS: "the image is over the pixel cap",
    Reason.UNREADABLE: "the file cannot be opened",
    Reason.VANISHED: "the file is no longer in the archive",
    Reason.CHANGED: "the file has changed since it was scanned: scan the archive again",
    Reason.BROKEN_LINK: "the link leads nowhere",
    Reason.OUTSIDE_ARCHIVE: "the path leads out of the archive",
    Reason.QUARANTINED: "workers were lost three times on this image alone",
}

# MURA's seven upper-limb parts (Rajpurkar et al. 2018) and the other DICOM Body Part Examined terms
# (PS3.16 Annex L) that limb archives use.
BODY_PARTS = (
    "ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST",
    "ANKLE", "CLAVICLE", "FEMUR", "FOOT", "HIP", "KNEE", "LEG", "PELVIS", "TOE",
)  # fmt: skip


class Layout(StrEnum):
    """How an archive's files make studies."""

    AUTO = "auto"
    MURA = "mura"
    FOLDER = "folder"
    FLAT = "flat"
    DICOM = "dicom"
    MANIFEST = "manifest"


class SkipReason(StrEnum):
    """Why a file or folder is passed over; said with a count, as in "12 hidden"."""

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
    BROKEN_LINK = "broken link"
    STILL_WRITTEN = "still being written"
    MULTI_FRAME = "multi-frame DICOM"
    NO_PIXELS = "DICOM without pixels"
