"""A DICOM file of a radiograph, and the same picture de-identified.

What the pixels are read with, and they themselves, stay as they are byte for byte: elements that are kept are not
decoded, and the pixel data element is copied.
"""

import hashlib
import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

from dicomanonymizer.simpledicomanonymizer import replace_element
from pydicom import config
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from bonescreen.deidentification.profile import EDITION, NAMES_AND_TIMES, Action, action_of
from xray.errors import FileFault
from xray.images.dicom import tags
from xray.images.dicom.data_set import ITEM, SEQUENCE_END, UNDEFINED_LENGTH, ByteReader, Encoding, InflatedStream
from xray.images.dicom.header import DEFLATED, SECONDARY_CAPTURE, RadiographFile, open_radiograph
from xray.pseudonym import pseudonymous_uid
from xray.vocabulary import Reason

METHOD = f"bonescreen: PS3.15 {EDITION} Basic Profile, pixels as they were"
"""De-identification Method (0012,0063); at most 64 characters."""

_PROFILE_CODE = ("113100", "DCM", "Basic Application Confidentiality Profile")
"""PS3.16 CID 7050; no option of the profile is applied, so no other code."""

_BURNED_IN = Tag(0x0028, 0x0301)
_OVERLAYS, _OVERLAY_BIT, _OVERLAY_DATA = 0x6000, 0x0102, 0x3000
"""The first group of overlays (PS3.5 7.6), and two elements in each group."""

_NAMING_NO_PATIENT = frozenset(
    Tag(keyword)
    for keyword in ("SOPClassUID", "ReferencedSOPClassUID", "CodingSchemeUID", "ContextUID", "MappingResourceUID")
)
"""Elements whose UID names a kind of object or a vocabulary, also one that DICOM has not registered."""


@dataclass(frozen=True)
class Identity:
    """Who a file is of, after de-identification.

    Attributes
    ----------
    key : bytes
        The pseudonym key, with which UIDs are replaced.
    patient : str
        The new Patient ID.
    study : str
        What the study is known by, for a file without a Study Instance UID.
    """

    key: bytes
    patient: str
    study: str


class DicomFile:
    """A DICOM file, read up to its pixel data.

    Parameters
    ----------
    data : bytes
        A whole file.

    Raises
    ------
    FileFault
        It cannot be read.

    Attributes
    ----------
    burned_in : str or None
        Why its picture may show who the patient is, if the file gives a reason to think so.
    """

    def __init__(self, data: bytes) -> None:
        with _faults():
            self._content = hashlib.sha256(data).hexdigest()
            self._file = open_radiograph(io.BytesIO(data), {})
            self._encoding = self._file.data_set.encoding
            self._data_set = _read_elements(self._file, data)
            self.burned_in = self._burned_in()

    def _burned_in(self) -> str | None:
        told = _text(self._data_set, _BURNED_IN).upper()
        if told == "YES":
            return "the file says that text is burned into its picture"
        if self._file.sop_class == SECONDARY_CAPTURE and told != "NO":
            return "it is a Secondary Capture, and does not say that no text is burned into its picture"
        if any(map(self._is_in_pixels, self._data_set.keys())):
            return "an overlay is stored within its pixels"
        return None

    def _is_in_pixels(self, tag: BaseTag) -> bool:
        """Tell whether an element describes an overlay that is in unused bits of the pixels (PS3.3 C.9.2, retired)."""
        is_overlay = tag.group & 0xFF00 == _OVERLAYS and tag.element == _OVERLAY_BIT
        return is_overlay and Tag(tag.group, _OVERLAY_DATA) not in self._data_set

    def deidentified(self, identity: Identity) -> bytes:
        """Return the file of the same picture, de-identified; once.

        Raises
        ------
        FileFault
            It cannot be de-identified.
        """
        with _faults():
            _deidentify(self._data_set, identity.key)
            _name(self._data_set, identity, self._content)
            body = self._elements() + _pixel_element(self._file)
            if self._file.transfer_syntax == DEFLATED:
                deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
                body = deflater.compress(body) + deflater.flush()
            # The preamble is for other formats' headers (PS3.10 7.1), and could hold anything.
            return bytes(128) + b"DICM" + self._meta() + body

    def _elements(self) -> bytes:
        file = DicomBytesIO()
        file.is_implicit_VR, file.is_little_endian = not self._encoding.explicit, self._encoding.byteorder == "little"
        write_dataset(file, self._data_set)
        return file.getvalue()

    def _meta(self) -> bytes:
        """Write a new file meta information: the old one may name hosts, and hold a private part."""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(self._file.sop_class or SECONDARY_CAPTURE)
        meta.MediaStorageSOPInstanceUID = self._data_set.SOPInstanceUID
        meta.TransferSyntaxUID = UID(self._file.transfer_syntax or _syntax_of(self._encoding))
        meta.ImplementationVersionName = f"bonescreen {version('bonescreen')}"[:16]
        file = DicomBytesIO()
        file.is_implicit_VR, file.is_little_endian = False, True
        write_file_meta_info(file, meta)
        return file.getvalue()


@contextmanager
def _faults() -> Iterator[None]:
    try:
        # Its warnings quote the header.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (FileFault, MemoryError):
        raise
    # Damaged files cause exceptions of every type. A library's text may quote the header, so only its type is kept.
    except Exception as error:
        raise FileFault(Reason.CORRUPT, f"de-identifying it ended with {type(error).__name__}") from error


def _read_elements(file: RadiographFile, data: bytes) -> Dataset:
    """Read the elements before the pixel data; what follows those is no part of a radiograph's data set."""
    start, end = file.start, file.pixel_element.start
    if file.transfer_syntax == DEFLATED:
        head = InflatedStream(io.BytesIO(data[start:]), b"").read(end)
    else:
        head = data[start:end]
    encoding = file.data_set.encoding
    return read_dataset(io.BytesIO(head), not encoding.explicit, encoding.byteorder == "little")


def _deidentify(data_set: Dataset, key: bytes) -> None:
    for tag in list(data_set.keys()):
        element = data_set.get_item(tag)
        action = action_of(tag)
        vr = _vr(element)
        if action is Action.KEEP and (vr == VR.SQ or (vr == VR.UN and dictionary_VR(tag) == VR.SQ)):
            _deidentify_items(data_set, tag, key)
        elif action is Action.KEEP and dictionary_VR(tag) == VR.SQ:
            # Items that are declared to be something else cannot be looked into.
            del data_set[tag]
        elif action is Action.KEEP and tag not in _NAMING_NO_PATIENT and _hides(vr, dictionary_VR(tag)):
            del data_set[tag]
        elif action is Action.REPLACE_UID or (vr == VR.UI and action in (Action.KEEP, Action.DUMMY)):
            _replace_uids(data_set, tag, key, vr)
        elif action is Action.EMPTY:
            data_set[tag] = DataElement(tag, vr, Sequence() if vr == VR.SQ else None)
        elif action is Action.DUMMY and vr not in (VR.SQ, VR.UN):
            data_set[tag] = _dummy(tag, vr)
        elif action is not Action.KEEP:
            # Of sequences with D none is a radiograph's, and a dummy of one would say what nobody reported.
            del data_set[tag]


def _hides(declared: str, known: str) -> bool:
    """Tell whether a UID is declared to be something else, or something else to be a name, a date or a time."""
    return declared != known and (known == VR.UI or declared in NAMES_AND_TIMES)


def _deidentify_items(data_set: Dataset, tag: BaseTag, key: bytes) -> None:
    element = data_set[tag]
    if element.VR == VR.SQ:
        for item in element.value:
            _deidentify(item, key)
    else:
        # pydicom reads items of an unknown VR up to 64 kilobytes.
        del data_set[tag]


def _replace_uids(data_set: Dataset, tag: BaseTag, key: bytes, vr: str) -> None:
    if vr in (VR.SQ, VR.UN):
        del data_set[tag]
        return
    if tag in _NAMING_NO_PATIENT:
        return
    replaced = [_new_uid(uid, key) for uid in _text(data_set, tag).split("\\")]
    data_set[tag] = DataElement(tag, VR.UI, replaced if len(replaced) > 1 else replaced[0])


def _new_uid(uid: str, key: bytes) -> str:
    plain = uid.strip(" \0")
    # Those that DICOM itself has registered, such as a transfer syntax or a well-known frame of reference, name nobody.
    return plain if not plain or UID(plain, config.IGNORE).type else pseudonymous_uid(key, plain)


def _dummy(tag: BaseTag, vr: str) -> DataElement:
    element = DataElement(tag, vr, None)
    replace_element(element)
    return element


def _name(data_set: Dataset, identity: Identity, content: str) -> None:
    """Give the file its new patient, UIDs where it has none, and the statement that it is de-identified."""
    data_set.PatientID = identity.patient
    for keyword, known_by in (
        ("StudyInstanceUID", identity.study),
        ("SeriesInstanceUID", f"{identity.study}\0series"),
        ("SOPInstanceUID", content),
    ):
        if not _text(data_set, Tag(keyword)):
            setattr(data_set, keyword, pseudonymous_uid(identity.key, known_by))
    data_set.PatientIdentityRemoved = "YES"
    data_set.DeidentificationMethod = METHOD
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = _PROFILE_CODE
    data_set.DeidentificationMethodCodeSequence = Sequence([code])
    data_set.LongitudinalTemporalInformationModified = "REMOVED"


def _vr(element: DataElement | RawDataElement) -> str:
    if element.VR:
        return str(element.VR)
    # Implicit VR; some elements have one of two VRs, alike in length.
    known = dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else VR.UN
    return str(known).split(" or ")[0]


def _text(data_set: Dataset, tag: BaseTag) -> str:
    if tag not in data_set:
        return ""
    value = data_set.get_item(tag).value
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return ("\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")).strip(" \0")


def _syntax_of(encoding: Encoding) -> str:
    if not encoding.explicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if encoding.byteorder == "little" else ExplicitVRBigEndian


def _pixel_element(file: RadiographFile) -> bytes:
    """Return the pixel data element as it is in the file, of implicit or explicit VR, without anything behind it."""
    element, reader, encoding = file.pixel_element, file.reader, file.data_set.encoding
    if element.length == UNDEFINED_LENGTH:
        value, length = _fragments(reader), UNDEFINED_LENGTH
    else:
        if isinstance(reader.stream, InflatedStream):
            reader.stream.allow(element.length)
        value = reader.read(element.length)
        value += bytes(len(value) % 2)
        length = len(value)
    head = b"".join(part.to_bytes(2, encoding.byteorder) for part in divmod(tags.PIXEL_DATA, 0x10000))
    if encoding.explicit:
        vr = element.vr if element.vr.decode("latin-1") in EXPLICIT_VR_LENGTH_32 else b"OW"
        head += vr + bytes(2)
    return head + length.to_bytes(4, encoding.byteorder) + value


def _fragments(reader: ByteReader) -> bytes:
    """Return the items of compressed pixels (PS3.5 A.4) up to their end, which is added where a file lacks it."""
    parts = []
    while len(head := reader.peek(8)) == 8:
        tag = int.from_bytes(head[:2], "little") << 16 | int.from_bytes(head[2:4], "little")
        length = int.from_bytes(head[4:], "little")
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or length == UNDEFINED_LENGTH:
            raise FileFault(Reason.CORRUPT, "the compressed pixels contain an element that is not a fragment")
        parts.append(reader.read(8 + length))
    return b"".join([*parts, b"\xfe\xff\xdd\xe0", bytes(4)])
