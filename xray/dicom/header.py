"""DICOM files: which bytes are one, which of them are radiographs, and what their headers say of the film.

Nothing that a file says leaves this module but what `Header` holds. pydicom is imported with the first DICOM file: it
takes a fifth of a command's start.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

from xray.dicom import tags
from xray.dicom.anatomy import body_part, laterality, view
from xray.dicom.elements import DataSet, Encoding, PixelElement, Walk
from xray.dicom.stream import Inflated, Source
from xray.errors import FileFault
from xray.pseudonym import pseudonym
from xray.vocabulary import Reason

HEAD = 1024
"""Bytes of a file that `is_dicom` wants to see."""

_PREFIX, _PREFIX_AT = b"DICM", 128
_META = {tags.MEDIA_STORAGE_SOP_CLASS: frozenset[int](), tags.TRANSFER_SYNTAX: frozenset[int]()}
_ENCODINGS = (Encoding(True, "little"), Encoding(False, "little"), Encoding(True, "big"), Encoding(False, "big"))
IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"

_STORAGE = "1.2.840.10008.5.1.4.1.1."
RADIOGRAPHS = frozenset(
    _STORAGE + end for end in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "12.1", "12.2", "12.3")
)
"""SOP classes of projection radiographs (PS3.4 B.5): CR; DX, mammography and intra-oral for presentation and for
processing; angiography and fluoroscopy, of which a file may hold one frame."""

MULTI_FRAMES = frozenset(_STORAGE + end for end in ("12.1.1", "12.2.1"))
"""SOP classes that are made for many projections: enhanced angiography and fluoroscopy."""

SECONDARY_CAPTURE = _STORAGE + "7"
"""What was a radiograph once, or a report, or anything: its modality tells (PS3.3 A.8)."""

SECONDARY_MULTI_FRAMES = frozenset(f"{SECONDARY_CAPTURE}.{end}" for end in "1234")

MODALITIES = frozenset({"CR", "DX", "RG", "RF", "XA", "MG", "IO", "PX"})
"""Modality terms of projection radiographs (PS3.3 C.7.3.1.1.1)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is kept of a DICOM file's header.

    Parameters
    ----------
    study, series : str or None
        Study and Series Instance UID (0020,000D and 0020,000E), if valid (PS3.5 section 9).
    body_part : str or None
        A term of PS3.16 Annex L, of 16 characters at most, upper case.
    view : str or None
        View Position (0018,5101), or what View Code Sequence (0054,0220) says, upper case.
    laterality : {"L", "R", "B", "U"} or None
        Left, right, both, unpaired.
    patient : str or None
        The patient's pseudonym, 32 hexadecimal digits.
    """

    study: str | None
    series: str | None
    body_part: str | None
    view: str | None
    laterality: str | None
    patient: str | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A radiograph's header, with the source standing at its pixels."""

    source: Source
    data_set: DataSet
    syntax: str
    pixels: PixelElement


def is_dicom(head: bytes) -> bool:
    """Tell from a file's first `HEAD` bytes, or from all of a shorter one, whether it is DICOM (PS3.10 section 7).

    Without the preamble and ``DICM`` behind it, the bytes must begin with elements of the file meta information or of
    group 0008 that DICOM's dictionary knows, in rising order.
    """
    return head[_PREFIX_AT : _PREFIX_AT + 4] == _PREFIX or _bare_encoding(head[:HEAD]) is not None


def read_header(file: BinaryIO, pseudonym_key: bytes | None) -> Header:
    """Read the header of a radiograph, without its pixels.

    Parameters
    ----------
    file : BinaryIO
        Seekable, at its start.
    pseudonym_key : bytes or None
        Without one, no pseudonym is made.

    Raises
    ------
    FileFault
        ``not_an_image``: no DICOM. ``not_radiograph``: its detail is the SOP class's name. ``multi_frame``,
        ``no_pixels``. ``truncated`` or ``corrupt``: the header cannot be read.
    """
    found = open_radiograph(file, tags.HEADER).data_set
    part, side = body_part(found)
    return Header(
        study=_uid(found.text(tags.STUDY)),
        series=_uid(found.text(tags.SERIES)),
        body_part=part,
        view=view(found),
        laterality=laterality(found) or side,
        patient=_patient(found, pseudonym_key) if pseudonym_key else None,
    )


def open_radiograph(file: BinaryIO, wanted: dict[int, frozenset[int]]) -> Opened:
    """Read the elements that are wanted, up to the pixels, and judge whether this is a radiograph.

    Raises
    ------
    FileFault
        As `read_header`.
    """
    source = Source(file)
    head = source.peek(HEAD)
    if not is_dicom(head):
        raise FileFault(Reason.NOT_AN_IMAGE)
    meta = DataSet(Encoding())
    if head[_PREFIX_AT : _PREFIX_AT + 4] == _PREFIX:
        source.skip(_PREFIX_AT + 4)
    if source.peek(2) == b"\x02\x00":
        walk = Walk(source, Encoding(), _META)
        walk.run(group=2)
        meta = walk.found
    syntax = meta.text(tags.TRANSFER_SYNTAX)
    if syntax == DEFLATED:
        source = Source(Inflated(file, source.rest()))
    walk = Walk(source, _encoding(source.peek(HEAD), syntax), wanted | tags.JUDGED)
    try:
        pixels = walk.run()
    except FileFault:
        # What is no radiograph is not a damaged one either.
        _judge_class(walk.found, meta)
        raise
    _judge_class(walk.found, meta)
    if (frames := walk.found.decimals(tags.NUMBER_OF_FRAMES)) and frames[0] > 1:
        raise FileFault(Reason.MULTI_FRAME)
    if pixels is None:
        raise FileFault(Reason.NO_PIXELS)
    return Opened(source, walk.found, syntax, pixels)


def _judge_class(found: DataSet, meta: DataSet) -> None:
    sop_class = found.text(tags.SOP_CLASS) or meta.text(tags.MEDIA_STORAGE_SOP_CLASS)
    radiographic = found.text(tags.MODALITY).upper() in MODALITIES
    if sop_class in MULTI_FRAMES or (sop_class in SECONDARY_MULTI_FRAMES and radiographic):
        raise FileFault(Reason.MULTI_FRAME)
    from pydicom import config
    from pydicom.uid import UID

    uid = UID(sop_class, config.IGNORE)
    is_standard = uid.type == "SOP Class"
    # A class of a vendor's own, or none, is judged as a secondary capture is.
    judged_by_modality = sop_class == SECONDARY_CAPTURE or not is_standard
    if not (sop_class in RADIOGRAPHS or (judged_by_modality and radiographic)):
        raise FileFault(Reason.NOT_RADIOGRAPH, uid.name if is_standard else "other DICOM object")


def _encoding(head: bytes, syntax: str) -> Encoding:
    if not syntax:
        return _bare_encoding(head) or Encoding()
    byteorder = "big" if syntax == BIG_ENDIAN else "little"
    # Some files are not written as their transfer syntax says: the first element tells.
    explicit = head[4:6] in _vrs() if len(head) >= 6 else syntax != IMPLICIT
    return Encoding(explicit, "big" if byteorder == "big" else "little")


def _bare_encoding(head: bytes) -> Encoding | None:
    return next((encoding for encoding in _ENCODINGS if _reads_as(head, encoding)), None)


def _reads_as(head: bytes, encoding: Encoding) -> bool:
    place, last, count = 0, -1, 0
    while count < 3 and place + 8 <= len(head):
        tag = int.from_bytes(head[place : place + 2], encoding.byteorder) << 16
        tag |= int.from_bytes(head[place + 2 : place + 4], encoding.byteorder)
        if tag <= last or tag >> 16 not in ((2, 8) if count == 0 else (2, 8, 0x10, 0x18)) or not _is_known(tag):
            return False
        vr, length = head[place + 4 : place + 6], int.from_bytes(head[place + 4 : place + 8], encoding.byteorder)
        if encoding.explicit:
            length = int.from_bytes(head[place + 6 : place + 8], encoding.byteorder)
            if vr not in _vrs():
                return False
        # Sequences and long values come late: what is known so far has to do.
        if length > HEAD or length % 2 or (encoding.explicit and vr in (b"SQ", b"OB", b"UN", b"UT")):
            return count > 1 or (count > 0 and encoding.explicit) or _is_meta(tag, vr)
        place, last, count = place + 8 + length, tag, count + 1
    return count > 0


def _is_known(tag: int) -> bool:
    from pydicom.datadict import dictionary_has_tag

    # Element 0 of a group is its length, retired.
    return tag & 0xFFFF == 0 or dictionary_has_tag(tag)


@cache
def _vrs() -> frozenset[bytes]:
    from pydicom.valuerep import VR

    return frozenset(vr.value.encode() for vr in VR)


def _is_meta(tag: int, vr: bytes) -> bool:
    return tag == tags.META_VERSION and vr == b"OB"


def _uid(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9.]{1,64}", text) else None


def _patient(found: DataSet, key: bytes) -> str | None:
    patient, issuer = _decoded(found, tags.PATIENT_ID), _decoded(found, tags.ISSUER_OF_PATIENT_ID)
    return pseudonym(key, patient, issuer) if patient else None


def _decoded(found: DataSet, tag: int) -> str:
    from pydicom.charset import python_encoding

    # PS3.5 6.1.2.3: of several character sets the first is that in which a value begins.
    charset = python_encoding.get(found.text(tags.CHARACTER_SET), "latin-1")
    value = found.values.get(tag, b"")
    try:
        return value.decode(charset).strip(" \0")
    except (UnicodeDecodeError, LookupError):
        return value.decode("latin-1").strip(" \0")
