"""What becomes of a data element by DICOM's Basic Application Level Confidentiality Profile (PS3.15 annex E.2).

Table E.1-1 is dicom-anonymizer's. Its own `anonymize_dataset` is not used: it looks into no sequence, gives random UIDs
that no other export has, leaves a dummy date where the table removes one, and fails at some values.
"""

from collections.abc import Iterator
from enum import Enum
from functools import cache

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_has_tag, dictionary_is_retired, dictionary_VR
from pydicom.tag import BaseTag
from pydicom.valuerep import VR

TABLE = "dicomfields_2026c"
"""dicom-anonymizer's name of Table E.1-1; its default is that of 2023."""

EDITION = "2026c"


class Action(Enum):
    """What is done with an element; the letters are the table's."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    REPLACE_UID = "U"
    KEEP = "K"


_CHOICES = {
    "X_TAGS": Action.REMOVE,
    "Z_TAGS": Action.EMPTY,
    "D_TAGS": Action.DUMMY,
    "U_TAGS": Action.REPLACE_UID,
    "X_Z_TAGS": Action.EMPTY,
    "Z_D_TAGS": Action.EMPTY,
    "X_D_TAGS": Action.REMOVE,
    "X_Z_D_TAGS": Action.REMOVE,
    "X_Z_U_STAR_TAGS": Action.REMOVE,
}
"""Where the table leaves a choice: the first that the modules of a radiograph allow (PS3.3 A.2, A.26, A.27), which
require none of these elements to have a value, and of X/Z to be there."""

_FIRST_GROUP = 0x0008
"""Of a data set: those below are of commands, of the file meta information and of directories."""

NAMES_AND_TIMES = frozenset({VR.PN, VR.DA, VR.DT, VR.TM})
_TEXTS = frozenset({VR.LO, VR.SH, VR.LT, VR.ST, VR.UT, VR.UC})

_DATES_IN_WORDS = frozenset({0x00100033, 0x00100034})
"""The patient's dates of birth and death in another calendar, which the table lacks."""


def action_of(tag: BaseTag) -> Action:
    """Return what becomes of an element, in the data set or in an item of a sequence.

    More is removed than the table says: elements that DICOM's dictionary does not have by this tag (private ones, all
    of curves and overlays, and those of which nobody knows what they hold), and, if the table lacks them, names, dates
    and times, and texts that DICOM has retired, among which are numbers of orders.
    """
    if tag.group < _FIRST_GROUP:
        return Action.REMOVE
    listed = _table().get(tag)
    if listed is not None:
        return listed
    if not dictionary_has_tag(tag) or tag in _DATES_IN_WORDS:
        return Action.REMOVE
    vr = dictionary_VR(tag)
    return Action.REMOVE if vr in NAMES_AND_TIMES or (vr in _TEXTS and dictionary_is_retired(tag)) else Action.KEEP


@cache
def _table() -> dict[int, Action]:
    return dict(_rows())


def _rows() -> Iterator[tuple[int, Action]]:
    groups = dicom_anonymization_database_selector(TABLE)
    for name, action in _CHOICES.items():
        for group, element, *mask in groups[name]:
            # Elements of repeating groups have a mask, and are removed with their group.
            if not mask:
                yield group << 16 | element, action
