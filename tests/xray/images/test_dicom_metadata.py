"""A header is read from metadata in JSON as from the file itself."""

import io
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.archives import image_pixels
from tests.dicoms import dicom
from xray.errors import FileFault
from xray.images.dicom.header import read_header
from xray.images.dicom.metadata import header_file
from xray.vocabulary import Reason

KEY = b"k" * 32
KEEP = ("accession", "date")


def code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def file_of(**elements: Any) -> bytes:
    named = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.3.4"}
    return dicom(image_pixels(1), **{**named, **elements})


def metadata_of(data: bytes) -> dict[str, Any]:
    described = dcmread(io.BytesIO(data))
    del described.PixelData
    return described.to_json_dict()


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"BodyPartExamined": "HAND", "ViewPosition": "PA", "ImageLaterality": "L", "Modality": "CR"},
        {"AnatomicRegionSequence": [code("85562004", "Hand")], "ViewCodeSequence": [code("399348003", "AP")]},
        {"PatientID": "P-1", "IssuerOfPatientID": "H", "PatientName": "Doe^Jane", "AccessionNumber": "A1"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen", "PatientID": "Ä7"},
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "PatientID": "7"},
        {"StudyDate": "20260115", "PresentationIntentType": "FOR PROCESSING"},
        {"NumberOfFrames": 1},
        {"NumberOfFrames": 3},
    ],
)
def test_metadata_give_the_header_of_the_file(elements: dict[str, Any]) -> None:
    data = file_of(**elements)
    expected = read_header(io.BytesIO(data), KEY, keep=KEEP)
    assert read_header(header_file(metadata_of(data)), KEY, keep=KEEP) == expected


@pytest.mark.parametrize(
    "elements", [{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, {"Modality": "US"}]
)
def test_metadata_of_what_is_no_radiograph_are_refused_as_its_file_is(elements: dict[str, Any]) -> None:
    data = file_of(**{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", **elements})
    faults = []
    for file in (io.BytesIO(data), header_file(metadata_of(data))):
        with pytest.raises(FileFault) as caught:
            read_header(file)
        faults.append((caught.value.reason, caught.value.detail))
    assert faults[0] == faults[1]
    assert faults[0][0] is Reason.NOT_RADIOGRAPH


@pytest.mark.parametrize(
    "wrong",
    [None, 5, [], {"vr": "CS"}, {"Value": "HAND"}, {"Value": [None]}, {"Value": [["HAND"]]}, {"Value": ["\ud800"]},
     {"Value": [{"Alphabetic": 5}]}, {"Value": ["x" * 10**6]}],
)  # fmt: skip
def test_elements_that_are_not_as_the_model_says_are_left_out(wrong: Any) -> None:
    metadata = {**metadata_of(file_of()), "00180015": wrong, "00100010": wrong, "00082218": wrong, "00280008": wrong}
    header = read_header(header_file(metadata), KEY)
    assert (header.study, header.body_part, header.series) == ("1.2", None, "1.2.3")
