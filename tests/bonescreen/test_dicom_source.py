"""What DICOM objects take over from the header of their image, as headers are in the wild."""

from pathlib import Path
from typing import Any

import pytest
from pydicom import config

from tests.bonescreen.conftest import Bonescreen, DicomClinic
from tests.bonescreen.dicom_objects import objects
from tests.dicom_clinic import STUDY, Screened, hand
from tests.dicoms import NATIVE

ODD_HEADERS: dict[str, dict[str, Any]] = {
    "no patient": {"PatientID": None, "PatientName": None},
    "dates and times that are none": {"PatientBirthDate": "unknown", "StudyDate": "1.1.2026", "StudyTime": "noon"},
    "a sex that is none": {"PatientSex": "FEMALE"},
    "UIDs of letters": {
        "StudyInstanceUID": "0b5ad2d4-8c4f-study",
        "SeriesInstanceUID": "series/1",
        "SOPInstanceUID": "image 1",
    },
    "an orientation and a window that are none": {"PatientOrientation": "A", "WindowWidth": "0", "WindowCenter": "0"},
    "a rescale slope of zero": {"RescaleSlope": "0", "RescaleIntercept": "5", "RescaleType": "HU"},
    "texts that are too long": {"AccessionNumber": "7" * 80, "PatientID": "8" * 100},
    "an instance number that is none": {"InstanceNumber": None},
}


@pytest.mark.parametrize("case", ODD_HEADERS)
def test_headers_of_the_wild_are_exported(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path, case: str
) -> None:
    with config.disable_value_validation():
        data = hand(**ODD_HEADERS[case])
    dicom_clinic({"one.dcm": Screened(data, 0.9)})
    study = ODD_HEADERS[case].get("StudyInstanceUID", STUDY)
    done = bonescreen("export", "dicom", study, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    with config.disable_value_validation():
        made = objects(tmp_path / "out")
        assert {str(each.StudyInstanceUID) for each in made} == {study}
    assert len(made) == 3
    assert "Warning" not in done.err


@pytest.mark.parametrize("syntax", NATIVE)
def test_images_in_any_encoding_are_exported_alike(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path, syntax: str
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(syntax=NATIVE[syntax], PatientOrientation=["P", "H"]), 0.9)})
    assert bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out").code == 0
    (made,) = objects(tmp_path / "out", "heat-map")
    assert (str(made.PatientName), list(made.PatientOrientation)) == ("Doe^Jane", ["P", "H"])
    assert made.file_meta.TransferSyntaxUID == NATIVE["explicit"]


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_an_image_that_nothing_can_refer_to_is_left_out_with_the_reason(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path, missing: str
) -> None:
    data = hand(**{missing: None})
    dicom_clinic({"one.dcm": Screened(data, 0.9, study="s")})
    done = bonescreen("export", "dicom", "s", "-o", tmp_path / "out")
    assert done.code == 1
    name = missing.replace("UID", " UID").replace("Instance", " Instance").replace("SOP ", "SOP ")
    assert f"one.dcm: left out, as it has no {name}" in done.err


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 144", "Люкceмбypг"),
    ],
)
def test_names_are_those_of_the_image_in_any_character_set(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path, charset: str | list[str], name: str
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(SpecificCharacterSet=charset, PatientName=name), 0.9)})
    assert bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out").code == 0
    assert {str(each.PatientName) for each in objects(tmp_path / "out")} == {name}


def test_of_several_names_of_the_patient_the_first_is_written(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(PatientName=["Doe^Jane", "Roe^Jane"]), 0.9)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert {str(each.PatientName) for each in objects(tmp_path / "out")} == {"Doe^Jane"}


def test_a_name_that_its_character_set_does_not_explain_is_kept_and_never_printed(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    data = hand(PatientName="Mueller^Jane").replace(b"Mueller", b"M\xfcller ")
    dicom_clinic({"one.dcm": Screened(data, 0.9)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert done.code == 0
    assert {str(each.PatientName) for each in objects(tmp_path / "out")} == {"Müller ^Jane"}
    assert "ller" not in done.out + done.err
