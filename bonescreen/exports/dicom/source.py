"""What an object about an image takes over from that image's header: patient, study, references, and how it is shown.

Headers in the wild lack elements, or hold what their value representation does not allow. What is wrong is left out,
except for what identifies: names, numbers and UIDs are copied as they are, so that the object is filed where its image
is.
"""

import io
import re
import warnings
from dataclasses import dataclass
from datetime import datetime

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from xray.errors import FileFault
from xray.images.dicom import tags
from xray.images.dicom.anatomy import laterality
from xray.images.dicom.data_set import DataSet
from xray.images.dicom.header import HEAD_BYTES, is_dicom, open_radiograph
from xray.vocabulary import reason_text

NAMES = ("PatientName", "ReferringPhysicianName")
TEXTS = (
    "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID", "StudyDescription", "DeidentificationMethod",
)  # fmt: skip
DATES, TIMES = ("PatientBirthDate", "StudyDate"), ("StudyTime",)
CHOICES = {
    "PatientSex": ("M", "F", "O"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "BurnedInAnnotation": ("YES", "NO"),
}
UIDS = {
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
    "SOPInstanceUID": "SOP Instance UID",
    "SOPClassUID": "SOP Class UID",
}
"""Without one of these, nothing can refer to an image."""

REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "ReferringPhysicianName",
)  # fmt: skip
"""Elements of type 2 (PS3.5 7.4.3): they are there, empty if nothing is known."""

_OTHERS = ("InstanceNumber", "PatientOrientation", "TimezoneOffsetFromUTC", "LossyImageCompression", "RescaleType")
_LOSSY = frozenset(f"1.2.840.10008.1.2.4.{end}" for end in ("50", "51", "81", "91", "93", "111", "112", "203"))
"""Transfer syntaxes that may lose something (PS3.5 A.4)."""

MODALITY_LUT_TYPE, RESCALE_TYPE = 0x00283004, 0x00281054
_CODE = {"CodeValue": 16, "CodingSchemeDesignator": 16, "CodeMeaning": 64}
"""The elements of a code, and their lengths."""

_LUT = frozenset({tags.LUT_DESCRIPTOR, tags.LUT_EXPLANATION, tags.LUT_DATA, MODALITY_LUT_TYPE})


class NoReference(Exception):
    """Nothing can refer to an image; the text says why, and reads on from "it"."""


@dataclass(frozen=True)
class Source:
    """A DICOM image that objects are made of.

    Attributes
    ----------
    described : Dataset
        What is copied of its header, in UTF-8.
    header : DataSet
        The elements of its pixels (`xray.images.dicom.tags.PIXEL_ELEMENTS`), as in the file.
    is_lossy : bool
        Whether its pixels have been compressed with loss.
    rows, columns : int
        Of its pixels as they are stored.
    """

    described: Dataset
    header: DataSet
    is_lossy: bool
    rows: int
    columns: int

    @property
    def study(self) -> str:
        """Its Study Instance UID."""
        return str(self.described.StudyInstanceUID)

    @property
    def sop_instance(self) -> str:
        """Its SOP Instance UID."""
        return str(self.described.SOPInstanceUID)

    @property
    def is_gray(self) -> bool:
        """Whether it is monochrome."""
        return self.photometric.startswith("MONOCHROME")

    @property
    def photometric(self) -> str:
        """Its Photometric Interpretation."""
        return self.header.text(tags.PHOTOMETRIC_INTERPRETATION).upper()


def read_source(data: bytes) -> Source:
    """Read what objects about an image take over from its file.

    Parameters
    ----------
    data : bytes
        A whole file, as it was screened.

    Raises
    ------
    NoReference
        It is no DICOM file, or has no UIDs to refer to.
    """
    if not is_dicom(data[:HEAD_BYTES]):
        raise NoReference("is no DICOM file")
    try:
        file = open_radiograph(io.BytesIO(data), _selected())
    except FileFault as fault:
        raise NoReference(f"cannot be read as a radiograph ({reason_text(fault.reason)})") from fault
    header, described = file.data_set, Dataset()
    described.SpecificCharacterSet = "ISO_IR 192"
    for keyword, name in UIDS.items():
        uid = _text(header, keyword)
        if not uid:
            raise NoReference(f"has no {name}")
        setattr(described, keyword, uid)
    if UID(described.SOPClassUID).type != "SOP Class":
        raise NoReference("has a SOP class that is not one of the standard's")
    _copy_patient_and_study(header, described)
    _copy_presentation(header, described)
    rows, columns = header.integer(tags.ROWS) or 0, header.integer(tags.COLUMNS) or 0
    described.Rows, described.Columns = rows, columns
    is_lossy = _text(header, "LossyImageCompression") == "01" or file.transfer_syntax in _LOSSY
    source = Source(described, header, is_lossy, rows, columns)
    # A palette is colour too; what is written of an image asks for one sample or three.
    described.SamplesPerPixel = 1 if source.is_gray else 3
    return source


def local_time(source: Source, seconds: float) -> datetime:
    """Return a time as the dates and times of an image's header mean it.

    Parameters
    ----------
    source : Source
    seconds : float
        Since 1970.

    Returns
    -------
    datetime
        In the time zone that the header names, else in this machine's, to the second.
    """
    here = datetime.fromtimestamp(int(seconds)).astimezone()
    offset = str(source.described.get("TimezoneOffsetFromUTC", ""))
    return here.astimezone(datetime.strptime(offset, "%z").tzinfo) if offset else here


def _selected() -> dict[int, frozenset[int]]:
    names = (*NAMES, *TEXTS, *DATES, *TIMES, *CHOICES, *UIDS, *_OTHERS)
    plain = dict.fromkeys((_tag(name) for name in names), frozenset[int]())
    luts = dict.fromkeys((tags.MODALITY_LUT_SEQUENCE, tags.VOI_LUT_SEQUENCE), _LUT)
    codes = {_tag("DeidentificationMethodCodeSequence"): frozenset(map(_tag, _CODE))}
    return {**tags.HEADER_ELEMENTS, **tags.PIXEL_ELEMENTS, **plain, **luts, **codes}


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def _text(header: DataSet, keyword: str) -> str:
    return header.text(_tag(keyword))


def _copy_patient_and_study(header: DataSet, described: Dataset) -> None:
    for keyword in (*NAMES, *TEXTS):
        text = decoded(header, _tag(keyword), is_name=keyword in NAMES)
        if keyword in NAMES:
            # An image is of one patient: of several names, only the first can be written.
            text = text.split("\\")[0]
        if text or keyword in REQUIRED:
            setattr(described, keyword, text)
    for keyword in DATES:
        setattr(described, keyword, _date(_text(header, keyword)))
    for keyword in TIMES:
        text = _text(header, keyword)
        is_time = re.fullmatch(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", text)
        setattr(described, keyword, text if is_time else "")
    for keyword, choices in CHOICES.items():
        text = _text(header, keyword).upper()
        if text in choices or keyword in REQUIRED:
            setattr(described, keyword, text if text in choices else "")
    methods = header.items.get(_tag("DeidentificationMethodCodeSequence"), [])
    if codes := [code for code in map(_code, methods) if code is not None]:
        described.DeidentificationMethodCodeSequence = codes
    offset = _text(header, "TimezoneOffsetFromUTC")
    if re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", offset):
        described.TimezoneOffsetFromUTC = offset


def _code(item: DataSet) -> Dataset | None:
    code = Dataset()
    for keyword, length in _CODE.items():
        text = _text(item, keyword)
        if not (0 < len(text) <= length and text.isascii()):
            return None
        setattr(code, keyword, text)
    return code


def _date(text: str) -> str:
    # Before 1993, dates had dots (PS3.5 6.2).
    digits = text.replace(".", "") if re.fullmatch(r"\d{4}\.\d\d\.\d\d", text) else text
    try:
        return digits if re.fullmatch(r"\d{8}", digits) and datetime.strptime(digits, "%Y%m%d") else ""
    except ValueError:
        return ""


def _copy_presentation(header: DataSet, described: Dataset) -> None:
    number = _text(header, "InstanceNumber")
    described.InstanceNumber = number if re.fullmatch(r"[1-9]\d{0,8}", number) else 1
    orientation = [text.upper() for text in header.texts(_tag("PatientOrientation"))]
    if len(orientation) == 2 and all(re.fullmatch(r"[APRLHF]{1,3}", each) for each in orientation):
        described.PatientOrientation = orientation
    part = header.text(tags.BODY_PART_EXAMINED).upper()
    if re.fullmatch(r"[A-Z0-9_ ]{1,16}", part):
        described.BodyPartExamined = part
    side = laterality(header)
    # A series has one side or another (C.7.3.1); what an image may be besides, both or unpaired, it cannot say.
    described.Laterality = side if side in ("L", "R") else ""


def decoded(header: DataSet, tag: int, *, is_name: bool) -> str:
    """Return a text element, decoded by its Specific Character Set, or as Latin-1 where that does not fit.

    Latin-1 is what most archives take bytes for that the character set does not explain.

    Parameters
    ----------
    header : DataSet
        With Specific Character Set (0008,0005).
    tag : int
    is_name : bool
        Whether it is the name of a person, whose parts may have character sets of their own (PS3.5 6.2.1.2).
    """
    value = header.values.get(tag, b"")
    with warnings.catch_warnings():
        # What pydicom would replace, with a warning, is the patient's name.
        warnings.simplefilter("error")
        try:
            encodings = convert_encodings(header.texts(tags.SPECIFIC_CHARACTER_SET))
            text = decode_bytes(value, encodings, {0x5E, 0x3D} if is_name else {0x0D, 0x0A, 0x09, 0x0C})
        except (UserWarning, UnicodeError, LookupError):
            text = value.decode("latin-1")
    return text.strip(" \0")
