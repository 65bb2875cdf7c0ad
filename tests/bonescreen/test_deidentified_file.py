"""A DICOM file de-identified: nothing of PS3.15 Table E.1-1 is left in it, and its picture is the same."""

import io
import zlib
from collections.abc import Iterator
from typing import Any

import gdcm
import numpy as np
import pytest
from dicomanonymizer.dicomfields_selector import ANONYMIZATION_CATEGORIES, dicom_anonymization_database_selector
from pydicom import dcmread, uid
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from bonescreen.deidentification.dicom_file import METHOD, DicomFile, Identity
from bonescreen.deidentification.profile import TABLE, Action, action_of
from tests.dicoms import CODECS_OF_ALL_BITS, LOSSY, NATIVE, bare, data_set, dicom, phantom, written
from xray.errors import FileFault
from xray.images.decode import decode
from xray.images.dicom import tags
from xray.images.dicom.header import read_header
from xray.pseudonym import pseudonymous_uid

KEY, PATIENT = b"a key for pseudonyms", "0123456789abcdef"
SECRETS = (b"SECRET", b"19480321", b"113311", b"1.3.9999.")
LISTED = {
    name: [tuple(row) for row in rows]
    for name, rows in dicom_anonymization_database_selector(TABLE).items()
    if name != "ALL_TAGS"
}
"""Table E.1-1 as dicom-anonymizer has it, by what it prescribes."""


def deidentified(data: bytes, patient: str = PATIENT, key: bytes = KEY) -> bytes:
    return DicomFile(data).deidentified(Identity(key, patient, "the study"))


def read(data: bytes) -> Dataset:
    return dcmread(io.BytesIO(data))


def secret(tag: BaseTag, depth: int = 2) -> DataElement:
    """Return an element whose value says who the patient is, whatever its VR."""
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) else "LO"
    values: dict[str, Any] = {
        "AE": "SECRET", "AS": "077Y", "CS": "SECRET", "DA": "19480321", "DS": "4711.5", "DT": "19480321113311",
        "FD": 4711.5, "FL": 4711.5, "IS": "4711", "OB": b"SECRET", "OW": b"SECRET", "SL": 4711, "SS": 4711,
        "TM": "113311", "UI": f"1.3.9999.{int(tag)}", "UL": 4711, "UN": b"SECRET", "UR": "http://SECRET", "US": 4711,
        "US or SS": 4711, "SQ": None,
    }  # fmt: skip
    if vr == "SQ":
        item = Dataset()
        item.PatientName, item.ReferencedSOPInstanceUID, item.TextValue = "SECRET", "1.3.9999.1", "SECRET"
        return DataElement(tag, vr, Sequence([item]))
    return DataElement(tag, vr.replace("US or SS", "US"), values.get(vr, f"SECRET{int(tag):x}"))


def listed_tags() -> Iterator[BaseTag]:
    for rows in LISTED.values():
        for row in rows:
            # Of repeating groups, one element in the first group and one in the last.
            yield Tag(row[0], row[1] if len(row) == 2 else row[1] or 0x3000)
            if len(row) > 2:
                yield Tag(row[0] + 0x1E, row[1] or 0x3000)


def everything(pixels: np.ndarray, depth: int = 2) -> Dataset:
    """Return a data set with every element of the table, also in sequences that stay, and in those within them."""
    full = data_set(pixels) if depth == 2 else Dataset()
    for tag in listed_tags():
        if _FIRST <= tag < tags.PIXEL_DATA:
            full[tag] = secret(tag)
    for keyword in ("PatientID", "PatientName"):
        setattr(full, keyword, "SECRET")
    block = full.private_block(0x0009, "SECRET CREATOR", create=True)
    block.add_new(1, "LO", "SECRET")
    block.add_new(2, "SQ", Sequence([Dataset()]))
    full[0x0019, 0x0010] = DataElement((0x0019, 0x0010), "LO", "SECRET CREATOR")
    full[0x0019, 0x1001] = DataElement((0x0019, 0x1001), "UN", b"SECRET")
    full[0x0013, 0x1010] = DataElement((0x0013, 0x1010), "LO", "SECRET, WITHOUT A CREATOR")
    full[0x0008, 0x0FFF] = DataElement((0x0008, 0x0FFF), "LO", "SECRET, IN NO DICTIONARY")
    full[0x0014, 0x2006] = DataElement((0x0014, 0x2006), "PN", "SECRET^Evaluator")
    full[0x6000, 0x0022] = DataElement((0x6000, 0x0022), "LO", "SECRET OVERLAY DESCRIPTION")
    full[0x0004, 0x1500] = DataElement((0x0004, 0x1500), "CS", "SECRET")
    if depth:
        full.AnatomicRegionSequence = Sequence([everything(pixels, depth - 1)])
    return full


_FIRST = Tag(0x0008, 0)


def levels(within: Dataset) -> Iterator[Dataset]:
    yield within
    for element in within:
        if element.VR == "SQ":
            for item in element.value:
                yield from levels(item)


@pytest.mark.parametrize("syntax", NATIVE.values(), ids=NATIVE)
def test_nothing_of_table_e_1_1_is_left_at_any_depth_in_any_encoding(syntax: uid.UID) -> None:
    pixels = phantom()
    full = everything(pixels)
    full.PixelData = pixels.astype(">u2" if syntax == uid.ExplicitVRBigEndian else "<u2").tobytes()
    full["PixelData"].VR = "OW"
    source = written(full, syntax)
    result = deidentified(source)
    after = read(result)
    assert after.file_meta.TransferSyntaxUID == syntax
    nested = list(levels(after))
    assert len(nested) > 3
    for level in nested:
        present = set(level.keys())
        for name, rows in LISTED.items():
            for tag in (Tag(row[:2]) for row in rows if len(row) == 2):
                if tag not in present or (level is after and tag == Tag("PatientID")):
                    continue
                value = level[tag].value
                if name == "U_TAGS":
                    assert str(value).startswith("2.25."), (name, tag)
                elif name == "D_TAGS":
                    assert value != secret(tag).value, (name, tag)
                else:
                    assert name in ("Z_TAGS", "X_Z_TAGS", "Z_D_TAGS"), (name, tag)
                    assert level[tag].is_empty or not value, (name, tag)
        assert not any(tag.is_private or tag.group & 0xFF00 in (0x5000, 0x6000) for tag in present)
        assert not any(
            element.VR in ("DA", "DT", "TM", "PN") and element.value for element in level if not _dummy(element)
        )
    inflated = (
        zlib.decompress(result[132 + 12 + after.file_meta[0x00020000].value :], -15) if syntax == DEFLATED else b""
    )
    for part in SECRETS:
        assert part not in (inflated or result), part
        assert part in source or inflated


DEFLATED = uid.DeflatedExplicitVRLittleEndian


def _dummy(element: DataElement) -> bool:
    """Tell whether an element has a dummy value, as D prescribes."""
    return action_of(element.tag) is Action.DUMMY


def test_the_table_is_the_librarys_newest_and_gives_each_element_one_rule() -> None:
    from dicomanonymizer import dicom_anonymization_databases

    (folder,) = dicom_anonymization_databases.__path__
    import pathlib

    assert max(path.stem for path in pathlib.Path(folder).glob("dicomfields_*.py")) == TABLE
    every = [row for rows in LISTED.values() for row in rows]
    assert len(every) == len(set(every)) > 650
    assert set(LISTED) | {"ALL_TAGS"} == set(ANONYMIZATION_CATEGORIES)
    assert not [row for row in every if action_of(Tag(row[:2])) is Action.KEEP]


def test_what_another_library_de_identifies_by_an_older_table_is_de_identified_too() -> None:
    listed = gdcm.Anonymizer.GetBasicApplicationLevelConfidentialityProfileAttributes()
    older = [Tag(tag.GetGroup(), tag.GetElement()) for tag in listed]
    assert len(older) > 40
    assert [tag for tag in older if action_of(tag) is Action.KEEP] == []


LOOKED_FOR = (
    "PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientIDs", "OtherPatientNames", "PatientAddress",
    "PatientMotherBirthName", "MilitaryRank", "EthnicGroup", "Occupation", "AdditionalPatientHistory",
    "PatientComments", "AccessionNumber", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "StudyDescription",
    "SeriesDescription", "ProtocolName", "ImageComments", "DeviceSerialNumber", "StudyID",
    "RequestedProcedureDescription", "DerivationDescription", "RequestingPhysician",
    "PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar", "PlacerOrderNumberProcedure",
    "FillerOrderNumberProcedure", "PlacerOrderNumberImagingServiceRequestRetired",
    "FillerOrderNumberImagingServiceRequestRetired", "RequestedProcedureDescriptionTrial",
)  # fmt: skip


def test_the_names_and_descriptions_that_people_look_for_first_are_gone() -> None:
    named = dict.fromkeys(LOOKED_FOR, "SECRET")
    result = deidentified(dicom(phantom(), **named, PatientBirthDate="19480321", PatientAge="077Y", StudyTime="113311"))
    assert not [part for part in (*SECRETS, b"077Y") if part in result]


def test_the_file_says_how_it_was_de_identified_and_whose_pseudonym_it_has() -> None:
    after = read(deidentified(dicom(phantom(), DeidentificationMethod="SECRET", PatientIdentityRemoved="NO")))
    assert (after.PatientID, after.PatientName, after.PatientIdentityRemoved) == (PATIENT, "", "YES")
    assert after.DeidentificationMethod == METHOD
    assert len(METHOD) <= 64
    (code,) = after.DeidentificationMethodCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")
    assert after.LongitudinalTemporalInformationModified == "REMOVED"


def test_uids_are_replaced_alike_in_all_files_with_a_key_and_otherwise_with_another_key() -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = uid.ComputedRadiographyImageStorage, "1.2.3.5"
    elements = {
        "FrameOfReferenceUID": "1.2.3.9",
        "IrradiationEventUID": ["1.2.3.7", "1.2.3.8"],
        "ReferencedPatientPhotoSequence": None,
        "ViewCodeSequence": Sequence([reference]),
    }
    one = read(deidentified(dicom(phantom(), **elements)))
    other = read(deidentified(dicom(phantom()[::-1], **elements, SOPInstanceUID="1.2.3.5"), patient="other"))
    keyed = read(deidentified(dicom(phantom(), **elements), key=b"another key of the same length"))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert one[keyword].value == other[keyword].value != keyed[keyword].value
        assert one[keyword].value == pseudonymous_uid(KEY, data_set(phantom()).get(keyword, "1.2.3.9"))
        assert uid.UID(one[keyword].value).is_valid
    assert len(set(one.IrradiationEventUID)) == 2
    assert one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID != other.SOPInstanceUID
    (item,) = one.ViewCodeSequence
    assert item.ReferencedSOPInstanceUID == other.SOPInstanceUID
    assert item.ReferencedSOPClassUID == one.SOPClassUID == uid.ComputedRadiographyImageStorage


def test_the_new_uid_of_a_uid_stays_the_same_in_later_versions() -> None:
    assert pseudonymous_uid(b"0123456789abcdef", "1.2.3") == "2.25.248127868614709126685461384407471337065"


def test_a_uid_that_dicom_has_registered_stays() -> None:
    talairach = "1.2.840.10008.1.4.1.1"
    assert read(deidentified(dicom(phantom(), FrameOfReferenceUID=talairach))).FrameOfReferenceUID == talairach


def test_a_file_without_uids_gets_some_and_the_same_again() -> None:
    source = dicom(phantom(), StudyInstanceUID=None, SeriesInstanceUID=None, SOPInstanceUID=None)
    results = [read(deidentified(source)) for _ in range(2)]
    assert results[0].StudyInstanceUID == results[1].StudyInstanceUID
    assert (
        len({results[0][keyword].value for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}) == 3
    )


CODECS = {**CODECS_OF_ALL_BITS, **LOSSY}


@pytest.mark.parametrize("name", [*NATIVE, *CODECS])
def test_pixels_and_what_they_are_read_with_stay_byte_for_byte(name: str) -> None:
    pixels = phantom(levels=3000 if name != "jpeg baseline" else 200, start=20).astype(
        np.uint8 if name == "jpeg baseline" else np.uint16
    )
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTExplanation = [4096, 0, 12], "NORMAL"
    lut.add_new("LUTData", "OW", np.linspace(0, 4095, 4096).astype("<u2").tobytes())
    elements = {
        "BitsStored": 12 if pixels.dtype == np.uint16 else 8,
        "VOILUTSequence": None if name == "big" else Sequence([lut]),
        "WindowCenter": "2000.50 ", "WindowWidth": "+3.5E+3", "RescaleSlope": "1.0", "RescaleIntercept": "-0",
        "ImagerPixelSpacing": ["0.100", "0.10"],
        "BodyPartExamined": "HAND", "ViewPosition": "PA", "ImageLaterality": "L",
    }  # fmt: skip
    if name in NATIVE:
        source = dicom(pixels, NATIVE[name], **elements)
    else:
        syntax, encode = CODECS[name]
        source = dicom(pixels, syntax, stream=encode(pixels), **elements)
    result = deidentified(source)
    assert np.array_equal(decode(result), decode(source))
    before, after = read(source), read(result)
    assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
    assert after.PixelData == before.PixelData
    for tag in (*tags.PIXEL_ELEMENTS, tags.PIXEL_DATA):
        if tag in before and isinstance(before.get_item(tag).value, bytes):
            assert before.get_item(tag).value == after.get_item(tag).value, Tag(tag)
    if name != "big":
        assert after.VOILUTSequence[0].LUTData == before.VOILUTSequence[0].LUTData
    told = [read_header(io.BytesIO(data)) for data in (source, result)]
    kept = [(each.body_part, each.view, each.laterality, each.modality, each.intent) for each in told]
    assert kept[0] == kept[1]


def test_preamble_meta_information_and_what_follows_the_pixels_are_not_copied() -> None:
    described = data_set(phantom())
    described.PixelData = phantom().tobytes()
    described["PixelData"].VR = "OW"
    described[0xFFFCFFFC] = DataElement(0xFFFCFFFC, "OB", b"SECRET padding")
    described[0x7FE10010] = DataElement(0x7FE10010, "LO", "SECRET private")
    source = read(written(described))
    source.preamble = b"SECRET".ljust(128, b"\0")
    source.file_meta.SourceApplicationEntityTitle = "SECRET_HOST"
    source.file_meta.PrivateInformationCreatorUID = "1.3.9999.5"
    source.file_meta.PrivateInformation = b"SECRET"
    file = io.BytesIO()
    dcmwrite(file, source)
    result = deidentified(file.getvalue() + b"SECRET" * 100)
    assert not [part for part in SECRETS if part in result]
    assert result.startswith(bytes(128) + b"DICM")
    assert result.endswith(phantom().tobytes())


def test_a_file_without_meta_information_gets_one() -> None:
    source = bare(dicom(phantom()))
    result = deidentified(source)
    assert read(result).file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    assert np.array_equal(decode(result), decode(source))


@pytest.mark.parametrize("length", [10, 40_000])
@pytest.mark.parametrize("vr", ["UN", "OB", "LT"])
def test_a_sequence_that_is_declared_to_be_something_else_is_not_kept_unread(vr: str, length: int) -> None:
    item = Dataset()
    item.PatientName, item.LongCodeValue = "SECRET", "x" * length
    described = data_set(phantom(), AnatomicRegionSequence=Sequence([item, item]))
    described.PixelData = phantom().tobytes()
    described["PixelData"].VR = "OW"
    source = written(described)
    at = source.index(b"\x08\x00\x18\x22SQ") + 4
    source = source[:at] + vr.encode() + source[at + 2 :]
    if vr == "LT":
        # Its length has 16 bits.
        size = int.from_bytes(source[at + 4 : at + 8], "little")
        if size > 0xFFFF:
            return
        source = source[: at + 2] + size.to_bytes(2, "little") + source[at + 8 :]
    assert b"SECRET" in source
    assert b"SECRET" not in deidentified(source)


@pytest.mark.parametrize(
    ("keyword", "vr"),
    [("AssertionUID", "LO"), ("BodyPartExamined", "PN"), ("ViewPosition", "DT")],
)
def test_a_uid_or_a_name_that_is_declared_to_be_something_else_is_not_kept(keyword: str, vr: str) -> None:
    value = "19480321" if vr == "DT" else "1.3.9999.1"
    described = data_set(phantom())
    described[Tag(keyword)] = DataElement(Tag(keyword), vr, value)
    described.PixelData = phantom().tobytes()
    described["PixelData"].VR = "OW"
    source = written(described)
    assert any(part in source for part in SECRETS)
    assert not any(part in deidentified(source) for part in SECRETS)


@pytest.mark.parametrize(
    ("elements", "why"),
    [
        ({"BurnedInAnnotation": "YES"}, "text is burned into"),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage}, "Secondary Capture"),
        ({"OverlayBitPosition": 12}, "an overlay is stored within its pixels"),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage, "BurnedInAnnotation": "NO"}, None),
        ({"BurnedInAnnotation": "NO"}, None),
        ({}, None),
    ],
)
def test_a_file_that_may_show_a_name_in_its_picture_says_why(elements: dict[str, Any], why: str | None) -> None:
    described = data_set(phantom())
    for keyword, value in elements.items():
        if keyword == "OverlayBitPosition":
            described[0x60000102] = DataElement(0x60000102, "US", value)
        else:
            setattr(described, keyword, value)
    described.PixelData = phantom().tobytes()
    described["PixelData"].VR = "OW"
    found = DicomFile(written(described)).burned_in
    assert (found is None) is (why is None)
    assert why is None or why in str(found)


def test_a_file_that_cannot_be_read_is_a_fault_that_quotes_nothing() -> None:
    source = bytearray(dicom(phantom(), PatientName="SECRET", AnatomicRegionSequence=Sequence([Dataset()])))
    at = source.index(b"\x08\x00\x18\x22SQ") + 8
    source[at : at + 4] = b"\x05\0\0\0"
    with pytest.raises(FileFault) as caught:
        deidentified(bytes(source))
    assert "SECRET" not in str(caught.value)
