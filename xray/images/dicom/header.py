"""DICOM headers: whether a file is DICOM, whether it is a radiograph, and its study, body part and view.

Of a header, only the fields of `Header` are ever stored or logged. pydicom is imported with the first DICOM file, as
that takes a fifth of a command's start.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from types import MappingProxyType
from typing import BinaryIO

from xray.errors import FileFault
from xray.images.dicom import tags
from xray.images.dicom.anatomy import body_part, laterality, view
from xray.images.dicom.data_set import ByteReader, DataSet, DataSetReader, Encoding, InflatedStream, PixelElement
from xray.pseudonym import patient_mark, pseudonym
from xray.vocabulary import FOR_PRESENTATION, FOR_PROCESSING, Reason

HEAD_BYTES = 1024
"""How many bytes from a file's start `is_dicom` needs."""

_PREFIX, _PREAMBLE_BYTES = b"DICM", 128
_META_ELEMENTS = {tags.MEDIA_STORAGE_SOP_CLASS_UID: frozenset[int](), tags.TRANSFER_SYNTAX_UID: frozenset[int]()}
_ENCODINGS = (Encoding(True, "little"), Encoding(False, "little"), Encoding(True, "big"), Encoding(False, "big"))
IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
"""Transfer syntaxes (PS3.5 annex A): Implicit VR Little Endian, Explicit VR Big Endian, Deflated Explicit VR."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_OWN_MODALITY = {
    "1.2": "MG", "1.2.1": "MG", "1.3": "IO", "1.3.1": "IO", "12.1": "XA", "12.2": "RF", "12.3": "XA",
}  # fmt: skip
RADIOGRAPH_CLASSES = {
    _STORAGE + end: modality for end, modality in {"1": "CR", "1.1": "DX", "1.1.1": "DX", **_OWN_MODALITY}.items()
}
"""SOP classes of projection radiographs (PS3.4 B.5), with the modality of each: CR; DX, mammography and intra-oral,
each for presentation and for processing; angiography and fluoroscopy, whose files may hold a single frame."""

_CLASSES_OF_ONE_MODALITY = frozenset(_STORAGE + end for end in _OWN_MODALITY)
_INTENTS = {
    **{_STORAGE + end: FOR_PRESENTATION for end in ("1.1", "1.2", "1.3")},
    **{_STORAGE + end: FOR_PROCESSING for end in ("1.1.1", "1.2.1", "1.3.1")},
}

MULTI_FRAME_CLASSES = frozenset(_STORAGE + end for end in ("12.1.1", "12.2.1"))
"""SOP classes of several projections: enhanced angiography and fluoroscopy."""

SECONDARY_CAPTURE = _STORAGE + "7"
"""Secondary Capture (PS3.3 A.8): any image; its modality tells whether it is a radiograph."""

MULTI_FRAME_SECONDARY_CAPTURES = frozenset(f"{SECONDARY_CAPTURE}.{end}" for end in "1234")

MODALITIES = frozenset({"CR", "DX", "RG", "RF", "XA", "MG", "IO", "PX"})
"""Modality terms of projection radiographs (PS3.3 C.7.3.1.1.1)."""

OTHER_MODALITIES = frozenset({
    "ANN", "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CT", "CTPROTOCOL", "DMS", "DOC", "ECG", "EEG", "EMG", "EOG", "EPS",
    "ES", "FID", "GM", "HC", "HD", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS", "M3D", "MR", "NM", "OAM", "OCT",
    "OP", "OPM", "OPTBSV", "OPTENF", "OPV", "OSS", "PLAN", "POS", "PR", "PT", "PX3D", "REG", "RESP", "RTDOSE",
    "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR",
    "SRF", "STAIN", "TEXTUREMAP", "TG", "US", "VA", "XAPROTOCOL", "XC",
})  # fmt: skip
"""Modality terms of what is no projection radiograph: the others of PS3.3 C.7.3.1.1.1. Left out are ``OT``,
``OPT`` (which some write for orthopantomograms), three new terms and what the standard does not know: these may be
radiographs."""

DEFINED_MODALITIES = MODALITIES | OTHER_MODALITIES | {"CF", "CFM", "DF", "DG", "DS", "OPT", "OT", "PA"}
"""Modality terms that PS3.3 C.7.3.1.1.1 defines; of those that it has retired, the radiographs' (CF, DF, DS)."""

_MODALITY_SYNONYMS = {
    **dict.fromkeys(("DR", "XR", "RX", "X-RAY", "XRAY"), "DX"), **dict.fromkeys(("DF", "CF"), "RF"), "DS": "XA",
    **dict.fromkeys(("OPG", "OPT", "PAN"), "PX"), "DM": "MG",
}  # fmt: skip
"""Terms that the standard does not know or has retired, and the one that each stands for."""

_MOVING = frozenset({"XA", "RF"})
"""Modalities whose files usually hold several frames, of a vessel or an organ that moves."""

MAX_UID = 1000
"""Characters, as many as a path may have. DICOM's UIDs have 64, but anonymisers also write hashes and UUIDs there."""

MAX_SERIES, MAX_ACCESSION = 64, 64
HEADER_VERSION = 1
"""Raised when `read_header` reads more, or otherwise: the headers of known files are then read again."""

ACCESSION, STUDY_DATE = "accession", "date"
"""What `read_header` keeps of a header only if it is asked for."""


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a DICOM header that a scan stores.

    Attributes
    ----------
    study, series : str or None
        Study and Series Instance UID (0020,000D and 0020,000E), or the study that was given. PS3.5 section 9 allows
        digits and dots only; any other printable text is kept too, as only equality matters.
    body_part : str or None
        See `xray.body_parts.body_part_of`.
    view : str or None
        View Position (0018,5101), or the term of View Code Sequence (0054,0220), upper case.
    laterality : {"L", "R", "B", "U"} or None
        Left, right, both, unpaired.
    modality : str or None
        A term of `MODALITIES`, by the SOP class where that has only one, else by Modality (0008,0060).
    intent : {"FOR PRESENTATION", "FOR PROCESSING"} or None
        Presentation Intent Type (0008,0068), else that of the SOP class.
    patient : str or None
        The patient's pseudonym, 32 hexadecimal digits.
    patient_mark : str or None
        Tells patients within one study apart by Patient ID and Patient's Name, see `xray.pseudonym.patient_mark`.
    accession : str or None
        Accession Number (0008,0050), at most `MAX_ACCESSION` characters.
    study_date : str or None
        Study Date (0008,0020), as YYYY-MM-DD.
    """

    study: str | None
    series: str | None
    body_part: str | None
    view: str | None
    laterality: str | None
    modality: str | None
    intent: str | None
    patient: str | None
    patient_mark: str | None
    accession: str | None
    study_date: str | None


@dataclass(frozen=True, slots=True)
class RadiographFile:
    """A DICOM file of a radiograph, read up to its pixel data.

    Attributes
    ----------
    reader : ByteReader
        At the value of the pixel data element.
    data_set : DataSet
        The selected elements.
    transfer_syntax, sop_class : str
        UIDs; ``""`` if the file has none.
    pixel_element : PixelElement
        The head of the pixel data element.
    start : int
        Where in the file the data set begins, deflated or not.
    """

    reader: ByteReader
    data_set: DataSet
    transfer_syntax: str
    sop_class: str
    pixel_element: PixelElement
    start: int


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


def read_header(
    file: BinaryIO,
    pseudonym_key: bytes | None = None,
    site_terms: Mapping[str, str] = MappingProxyType({}),
    keep: Collection[str] = (),
    study: str | None = None,
) -> Header:
    """Read the header of a radiograph.

    A radiograph whose header is damaged after its study's UID, or that holds several frames or no pixels, has a header
    too, as its study would otherwise seem complete without it; reading its pixels fails. Several frames of an angiogram
    or fluoroscopy are no loss.

    Parameters
    ----------
    file : BinaryIO
        Seekable, at its start; the pixel data are not read.
    pseudonym_key : bytes or None
        Key of the patient's pseudonym; without a key there is no pseudonym.
    site_terms : mapping of str to str
        A site's own terms for body parts, see `xray.body_parts.read_site_terms`.
    keep : collection of str
        `ACCESSION` and `STUDY_DATE` are None unless they are in it.
    study : str or None
        The study that the file's path or a manifest places it in, if any does; else its Study Instance UID counts.

    Raises
    ------
    FileFault
        ``not_an_image``: not DICOM. ``not_radiograph``: the detail is the SOP class's name. ``multi_frame``.
        ``no_pixels``. ``truncated`` or ``corrupt``: the header cannot be read.
    """
    read = _read_data_set(file, tags.HEADER_ELEMENTS)
    data_set, sop_class = read.data_set, read.sop_class
    study = study or _uid(data_set.text(tags.STUDY_INSTANCE_UID), MAX_UID)
    modality = _modality(data_set, sop_class)
    if read.fault is not None and (
        study is None
        or read.fault.reason is Reason.NOT_RADIOGRAPH
        or (read.fault.reason is Reason.MULTI_FRAME and modality in _MOVING)
    ):
        raise read.fault
    part, side = body_part(data_set, site_terms)
    return Header(
        study=study,
        series=_uid(data_set.text(tags.SERIES_INSTANCE_UID), MAX_SERIES),
        body_part=part,
        view=view(data_set),
        laterality=laterality(data_set) or side,
        modality=modality,
        intent=_intent(data_set, sop_class),
        patient=_patient(data_set, pseudonym_key) if pseudonym_key else None,
        patient_mark=_patient_mark(data_set, study),
        accession=_printable(data_set.decoded(tags.ACCESSION_NUMBER)) if ACCESSION in keep else None,
        study_date=_date(data_set.text(tags.STUDY_DATE)) if STUDY_DATE in keep else None,
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
    read = _read_data_set(file, selected)
    if read.fault is not None:
        raise read.fault
    if read.pixel_element is None:
        raise FileFault(Reason.NO_PIXELS)
    return RadiographFile(read.reader, read.data_set, read.syntax, read.sop_class, read.pixel_element, read.start)


@dataclass(frozen=True, slots=True)
class _ReadDataSet:
    """What was read of a file up to its pixels, and why they cannot be read."""

    reader: ByteReader
    data_set: DataSet
    sop_class: str
    syntax: str
    pixel_element: PixelElement | None
    fault: FileFault | None
    start: int


def _read_data_set(file: BinaryIO, selected: Mapping[int, frozenset[int]]) -> _ReadDataSet:
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
    syntax, start = meta.text(tags.TRANSFER_SYNTAX_UID), reader.position
    if syntax == DEFLATED:
        reader = ByteReader(InflatedStream(file, reader.peeked))
    encoding = _encoding(reader.peek(HEAD_BYTES), syntax)
    data_set_reader = DataSetReader(reader, encoding, {**selected, **tags.RADIOGRAPH_CHECK_ELEMENTS})
    data_set, fault, pixel_element = data_set_reader.data_set, None, None
    try:
        pixel_element = data_set_reader.read()
    except FileFault as damage:
        fault = damage
    sop_class = data_set.text(tags.SOP_CLASS_UID) or meta.text(tags.MEDIA_STORAGE_SOP_CLASS_UID)
    # First the class: a damaged file of a different SOP class is reported as not a radiograph.
    fault = _class_fault(data_set, sop_class) or fault
    if fault is None and (frames := data_set.decimals(tags.NUMBER_OF_FRAMES)) and frames[0] > 1:
        fault = FileFault(Reason.MULTI_FRAME)
    if fault is None and pixel_element is None:
        fault = FileFault(Reason.NO_PIXELS)
    return _ReadDataSet(reader, data_set, sop_class, syntax, pixel_element, fault, start)


def _has_prefix(head: bytes) -> bool:
    return head[_PREAMBLE_BYTES : _PREAMBLE_BYTES + len(_PREFIX)] == _PREFIX


def _class_fault(data_set: DataSet, sop_class: str) -> FileFault | None:
    """Return ``multi_frame`` or ``not_radiograph`` if the SOP class and modality are not a radiograph's."""
    is_radiographic = _named_modality(data_set) in MODALITIES
    if sop_class in MULTI_FRAME_CLASSES or (sop_class in MULTI_FRAME_SECONDARY_CAPTURES and is_radiographic):
        return FileFault(Reason.MULTI_FRAME)
    if sop_class in RADIOGRAPH_CLASSES:
        return None
    from pydicom import config
    from pydicom.uid import UID

    uid = UID(sop_class, config.IGNORE)
    is_standard = uid.type == "SOP Class"
    # A private SOP class, or none, says as little about the image as Secondary Capture does.
    if is_radiographic and (sop_class == SECONDARY_CAPTURE or not is_standard):
        return None
    return FileFault(Reason.NOT_RADIOGRAPH, uid.name if is_standard else "other DICOM object")


def _named_modality(data_set: DataSet) -> str:
    term = data_set.text(tags.MODALITY).upper()
    return _MODALITY_SYNONYMS.get(term, term)


def _modality(data_set: DataSet, sop_class: str) -> str | None:
    named = _named_modality(data_set)
    if sop_class in MULTI_FRAME_CLASSES or sop_class in _CLASSES_OF_ONE_MODALITY or named not in MODALITIES:
        return RADIOGRAPH_CLASSES.get(sop_class) or ("XA" if sop_class in MULTI_FRAME_CLASSES else None)
    return named


def _intent(data_set: DataSet, sop_class: str) -> str | None:
    intent = data_set.text(tags.PRESENTATION_INTENT_TYPE).upper()
    return intent if intent in (FOR_PRESENTATION, FOR_PROCESSING) else _INTENTS.get(sop_class)


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


def _uid(text: str, most: int) -> str | None:
    return text if 0 < len(text) <= most and text.isprintable() else None


def _printable(text: str) -> str | None:
    # A database may refuse control characters, and a terminal obeys them.
    return "".join(filter(str.isprintable, text))[:MAX_ACCESSION].strip() or None


def _patient(data_set: DataSet, key: bytes) -> str | None:
    patient, issuer = data_set.decoded(tags.PATIENT_ID), data_set.decoded(tags.ISSUER_OF_PATIENT_ID)
    return pseudonym(key, patient, issuer) if patient else None


def _patient_mark(data_set: DataSet, study: str | None) -> str | None:
    number, name = data_set.decoded(tags.PATIENT_ID), data_set.decoded(tags.PATIENT_NAME)
    return patient_mark(study, number, name) if study else None


def _date(text: str) -> str | None:
    # Before DICOM 3 a date was written with points (PS3.5 6.2).
    digits = text.replace(".", "") if re.fullmatch(r"\d{4}\.\d{2}\.\d{2}", text) else text
    try:
        return date.fromisoformat(digits).isoformat() if re.fullmatch(r"[0-9]{8}", digits) else None
    except ValueError:
        return None
