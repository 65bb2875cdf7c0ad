"""DICOM headers: whether a file is DICOM, whether it is a radiograph, and its study, body part and view.

Of a header, only the fields of `Header` are ever stored or logged. pydicom is imported with the first DICOM file, as
that takes a fifth of a command's start.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

from xray.errors import FileFault
from xray.images.dicom import tags
from xray.images.dicom.anatomy import body_part, laterality, view
from xray.images.dicom.data_set import ByteReader, DataSet, DataSetReader, Encoding, InflatedStream, PixelElement
from xray.pseudonym import pseudonym
from xray.vocabulary import Reason

HEAD_BYTES = 1024
"""How many bytes from a file's start `is_dicom` needs."""

_PREFIX, _PREAMBLE_BYTES = b"DICM", 128
_META_ELEMENTS = {tags.MEDIA_STORAGE_SOP_CLASS_UID: frozenset[int](), tags.TRANSFER_SYNTAX_UID: frozenset[int]()}
_ENCODINGS = (Encoding(True, "little"), Encoding(False, "little"), Encoding(True, "big"), Encoding(False, "big"))
IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
"""Transfer syntaxes (PS3.5 annex A): Implicit VR Little Endian, Explicit VR Big Endian, Deflated Explicit VR."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
RADIOGRAPH_CLASSES = frozenset(
    _STORAGE + end for end in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "12.1", "12.2", "12.3")
)
"""SOP classes of projection radiographs (PS3.4 B.5): CR; DX, mammography and intra-oral, each for presentation and for
processing; angiography and fluoroscopy, whose files may hold a single frame."""

MULTI_FRAME_CLASSES = frozenset(_STORAGE + end for end in ("12.1.1", "12.2.1"))
"""SOP classes of several projections: enhanced angiography and fluoroscopy."""

SECONDARY_CAPTURE = _STORAGE + "7"
"""Secondary Capture (PS3.3 A.8): any image; its modality tells whether it is a radiograph."""

MULTI_FRAME_SECONDARY_CAPTURES = frozenset(f"{SECONDARY_CAPTURE}.{end}" for end in "1234")

MODALITIES = frozenset({"CR", "DX", "RG", "RF", "XA", "MG", "IO", "PX"})
"""Modality terms of projection radiographs (PS3.3 C.7.3.1.1.1)."""


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a DICOM header that a scan stores.

    Attributes
    ----------
    study, series : str or None
        Study and Series Instance UID (0020,000D and 0020,000E), if valid (PS3.5 section 9).
    body_part : str or None
        A term of PS3.16 Annex L, of 16 characters at most, upper case.
    view : str or None
        View Position (0018,5101), or the term of View Code Sequence (0054,0220), upper case.
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
class RadiographFile:
    """A DICOM file of a radiograph, read up to its pixel data.

    Attributes
    ----------
    reader : ByteReader
        At the value of the pixel data element.
    data_set : DataSet
        The selected elements.
    transfer_syntax : str
        UID; ``""`` if the file has none.
    pixel_element : PixelElement
        The head of the pixel data element.
    """

    reader: ByteReader
    data_set: DataSet
    transfer_syntax: str
    pixel_element: PixelElement


def is_dicom(head: bytes) -> bool:
    """Say whether a file is DICOM (PS3.10 section 7).

    A file without preamble and ``DICM`` must begin with elements of the file meta information or of group 0008, known
    to DICOM's dictionary and in ascending order.

    Parameters
    ----------
    head : bytes
        The file's first `HEAD_BYTES` bytes, or the whole file if it is shorter.
    """
    return _has_prefix(head) or _encoding_of_elements(head[:HEAD_BYTES]) is not None


def read_header(file: BinaryIO, pseudonym_key: bytes | None) -> Header:
    """Read the header of a radiograph.

    Parameters
    ----------
    file : BinaryIO
        Seekable, at its start; the pixel data are not read.
    pseudonym_key : bytes or None
        Key of the patient's pseudonym; without a key there is no pseudonym.

    Raises
    ------
    FileFault
        ``not_an_image``: not DICOM. ``not_radiograph``: the detail is the SOP class's name. ``multi_frame``.
        ``no_pixels``. ``truncated`` or ``corrupt``: the header cannot be read.
    """
    data_set = open_radiograph(file, tags.HEADER_ELEMENTS).data_set
    part, side = body_part(data_set)
    return Header(
        study=_uid(data_set.text(tags.STUDY_INSTANCE_UID)),
        series=_uid(data_set.text(tags.SERIES_INSTANCE_UID)),
        body_part=part,
        view=view(data_set),
        laterality=laterality(data_set) or side,
        patient=_patient(data_set, pseudonym_key) if pseudonym_key else None,
    )


def open_radiograph(file: BinaryIO, selected: Mapping[int, frozenset[int]]) -> RadiographFile:
    """Read a file up to its pixel data, and check that it is a single-frame radiograph.

    Parameters
    ----------
    file : BinaryIO
        Seekable, at its start.
    selected : mapping of int to frozenset of int
        Tags of the elements to keep, see `DataSetReader`.

    Raises
    ------
    FileFault
        As `read_header`.
    """
    reader = ByteReader(file)
    head = reader.peek(HEAD_BYTES)
    if not is_dicom(head):
        raise FileFault(Reason.NOT_AN_IMAGE)
    meta = DataSet(Encoding())
    if _has_prefix(head):
        reader.skip(_PREAMBLE_BYTES + len(_PREFIX))
    if reader.peek(2) == b"\x02\x00":
        meta_reader = DataSetReader(reader, Encoding(), _META_ELEMENTS)
        meta_reader.read(group=2)
        meta = meta_reader.data_set
    syntax = meta.text(tags.TRANSFER_SYNTAX_UID)
    if syntax == DEFLATED:
        reader = ByteReader(InflatedStream(file, reader.peeked))
    encoding = _encoding(reader.peek(HEAD_BYTES), syntax)
    data_set_reader = DataSetReader(reader, encoding, {**selected, **tags.RADIOGRAPH_CHECK_ELEMENTS})
    data_set = data_set_reader.data_set
    try:
        pixel_element = data_set_reader.read()
    except FileFault:
        # A damaged file of a different SOP class is reported as not a radiograph.
        _check_sop_class(data_set, meta)
        raise
    _check_sop_class(data_set, meta)
    if (frames := data_set.decimals(tags.NUMBER_OF_FRAMES)) and frames[0] > 1:
        raise FileFault(Reason.MULTI_FRAME)
    if pixel_element is None:
        raise FileFault(Reason.NO_PIXELS)
    return RadiographFile(reader, data_set, syntax, pixel_element)


def _has_prefix(head: bytes) -> bool:
    return head[_PREAMBLE_BYTES : _PREAMBLE_BYTES + len(_PREFIX)] == _PREFIX


def _check_sop_class(data_set: DataSet, meta: DataSet) -> None:
    """Raise ``multi_frame`` or ``not_radiograph`` if the SOP class and modality are not a radiograph's."""
    sop_class = data_set.text(tags.SOP_CLASS_UID) or meta.text(tags.MEDIA_STORAGE_SOP_CLASS_UID)
    is_radiographic = data_set.text(tags.MODALITY).upper() in MODALITIES
    if sop_class in MULTI_FRAME_CLASSES or (sop_class in MULTI_FRAME_SECONDARY_CAPTURES and is_radiographic):
        raise FileFault(Reason.MULTI_FRAME)
    from pydicom import config
    from pydicom.uid import UID

    uid = UID(sop_class, config.IGNORE)
    is_standard = uid.type == "SOP Class"
    # A private SOP class, or none, says as little about the image as Secondary Capture does.
    modality_decides = sop_class == SECONDARY_CAPTURE or not is_standard
    if not (sop_class in RADIOGRAPH_CLASSES or (modality_decides and is_radiographic)):
        raise FileFault(Reason.NOT_RADIOGRAPH, uid.name if is_standard else "other DICOM object")


def _encoding(head: bytes, syntax: str) -> Encoding:
    if not syntax:
        return _encoding_of_elements(head) or Encoding()
    byteorder = "big" if syntax == BIG_ENDIAN else "little"
    # Some files are not encoded as their transfer syntax says, so the first element decides.
    explicit = head[4:6] in _vrs() if len(head) >= 6 else syntax != IMPLICIT
    return Encoding(explicit, "big" if byteorder == "big" else "little")


def _encoding_of_elements(head: bytes) -> Encoding | None:
    """Return the encoding in which bytes are the first elements of a DICOM file without a prefix; None if in none."""
    return next((encoding for encoding in _ENCODINGS if _begins_with_elements(head, encoding)), None)


def _begins_with_elements(head: bytes, encoding: Encoding) -> bool:
    position, last, count = 0, -1, 0
    while count < 3 and position + 8 <= len(head):
        tag = int.from_bytes(head[position : position + 2], encoding.byteorder) << 16
        tag |= int.from_bytes(head[position + 2 : position + 4], encoding.byteorder)
        if tag <= last or tag >> 16 not in ((2, 8) if count == 0 else (2, 8, 0x10, 0x18)) or not _is_known(tag):
            return False
        vr = head[position + 4 : position + 6]
        length = int.from_bytes(head[position + 4 : position + 8], encoding.byteorder)
        if encoding.explicit:
            length = int.from_bytes(head[position + 6 : position + 8], encoding.byteorder)
            if vr not in _vrs():
                return False
        # Sequences and long values end the check: the elements before them decide.
        if length > HEAD_BYTES or length % 2 or (encoding.explicit and vr in (b"SQ", b"OB", b"UN", b"UT")):
            return count > 1 or (count > 0 and encoding.explicit) or _is_meta_version(tag, vr)
        position, last, count = position + 8 + length, tag, count + 1
    return count > 0


def _is_known(tag: int) -> bool:
    from pydicom.datadict import dictionary_has_tag

    # Element 0 of a group is the (retired) group length.
    return tag & 0xFFFF == 0 or dictionary_has_tag(tag)


@cache
def _vrs() -> frozenset[bytes]:
    from pydicom.valuerep import VR

    return frozenset(vr.value.encode() for vr in VR)


def _is_meta_version(tag: int, vr: bytes) -> bool:
    return tag == tags.FILE_META_INFORMATION_VERSION and vr == b"OB"


def _uid(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9.]{1,64}", text) else None


def _patient(data_set: DataSet, key: bytes) -> str | None:
    patient, issuer = _decoded(data_set, tags.PATIENT_ID), _decoded(data_set, tags.ISSUER_OF_PATIENT_ID)
    return pseudonym(key, patient, issuer) if patient else None


def _decoded(data_set: DataSet, tag: int) -> str:
    from pydicom.charset import python_encoding

    # PS3.5 6.1.2.3: a value begins in the first of several character sets.
    charset = python_encoding.get(data_set.text(tags.SPECIFIC_CHARACTER_SET), "latin-1")
    value = data_set.values.get(tag, b"")
    try:
        return value.decode(charset).strip(" \0")
    except (UnicodeDecodeError, LookupError):
        return value.decode("latin-1").strip(" \0")
