"""`bonescreen export dicom`: results as DICOM objects, checked by pydicom, and by dciodvfy and dsr2html of Debian."""

import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
)

from tests.bonescreen.conftest import Bonescreen, DicomClinic, Done
from tests.debian_packages import require_packages
from tests.dicom_clinic import STUDY, Screened, hand
from tests.dicoms import LOSSLESS, NATIVE, phantom
from tests.pictured import pictured
from xray.errors import FileFault
from xray.images.dicom.header import read_header
from xray.network.heatmap import blend
from xray.network.package import ModelPackage
from xray.vocabulary import Reason, Repair

MARK = "RESEARCH - NOT FOR DIAGNOSIS"


@pytest.fixture
def two_images(dicom_clinic: DicomClinic) -> int:
    """Screen a study of two images: its score is 0.8."""
    return dicom_clinic({"one.dcm": Screened(hand(1), 0.9), "two.dcm": Screened(hand(2), 0.7)})


def objects(folder: Path, kind: str = "*") -> list[Dataset]:
    """Read the objects below a folder, or those of a kind."""
    return [dcmread(path) for path in sorted(folder.rglob(f"{kind}-2.25.*.dcm"))]


def content(item: Dataset) -> dict[str, list[str]]:
    """Return what a measurement group says, by the names of its concepts."""
    said: dict[str, list[str]] = {}
    for each in item.ContentSequence:
        name = each.ConceptNameCodeSequence[0].CodeMeaning
        value = {
            "CODE": lambda each: each.ConceptCodeSequence[0].CodeMeaning,
            "NUM": lambda each: str(each.MeasuredValueSequence[0].NumericValue),
            "TEXT": lambda each: each.TextValue,
            "UIDREF": lambda each: each.UID,
            "IMAGE": lambda each: each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID,
            "CONTAINER": lambda each: "",
        }[each.ValueType](each)
        said.setdefault(name, []).append(str(value))
    return said


def groups(report: Dataset) -> list[dict[str, list[str]]]:
    """Return the measurement groups of a report: the study's, and each image's."""
    measurements = report.ContentSequence[-1]
    assert measurements.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    return [content(group) for group in measurements.ContentSequence]


def test_a_study_gets_a_report_and_each_image_a_heat_map_and_its_outlines_in_the_original_study(
    bonescreen: Bonescreen, two_images: int, tmp_path: Path
) -> None:
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [str(path) for path in _in_order_of_writing(tmp_path / "out", done)]
    assert "Wrote 5 objects of 1 study." in done.err
    made = objects(tmp_path / "out")
    assert {each.StudyInstanceUID for each in made} == {STUDY}
    assert {(each.PatientID, str(each.PatientName)) for each in made} == {("4711", "Doe^Jane")}
    assert sorted(each.SOPClassUID for each in made) == sorted(
        [EnhancedSRStorage, *[SecondaryCaptureImageStorage] * 2, *[GrayscaleSoftcopyPresentationStateStorage] * 2]
    )
    assert {each.SeriesDescription[: len(MARK)] for each in made} == {MARK}
    assert len({each.SeriesInstanceUID for each in made}) == 3
    assert {each.ContentQualification for each in made} == {"RESEARCH"}


def _in_order_of_writing(folder: Path, done: Done) -> list[Path]:
    paths = [Path(line) for line in done.out.splitlines()]
    assert sorted(paths) == sorted(folder.rglob("*.dcm"))
    return paths


def test_the_report_gives_score_label_threshold_and_model_and_each_images_probability_with_its_image(
    bonescreen: Bonescreen, two_images: int, tmp_path: Path, tiny_package: ModelPackage
) -> None:
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    (report,) = objects(tmp_path / "out", "report")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    root = content(report)
    assert root["Observer Type"] == ["Device"]
    assert root["Comment"] == [f"{MARK}. Made by a program, and verified by nobody."]
    of_study, *of_images = groups(report)
    assert of_study["Probability"] == ["0.8"]
    assert of_study["Threshold Value"] == ["0.5"]
    assert of_study["Predicted label"] == ["Positive"]
    assert of_study["Study status"] == ["Scored: every image was read"]
    assert of_study["Finding"] == ["Fracture of bone"]
    assert of_study["Algorithm Name"] == ["tiny"]
    assert of_study["Algorithm Version"] == ["1"]
    assert of_study["Algorithm Family"] == ["Artificial Intelligence"]
    assert of_study["Algorithm Parameters"] == [f"package SHA-256: {tiny_package.digest}", "precision: fp32"]
    heat_maps = {each.SourceImageSequence[0].ReferencedSOPInstanceUID: each for each in objects(tmp_path, "heat-map")}
    for number, probability in ((1, "0.9"), (2, "0.7")):
        image = of_images[number - 1]
        assert image["Probability"] == [probability]
        assert image["Source of Measurement"] == [f"{STUDY}.1.{number}"]
        assert image["Class activation"] == [heat_maps[f"{STUDY}.1.{number}"].SOPInstanceUID]
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    assert evidence.StudyInstanceUID == STUDY


def test_a_negative_study_states_no_finding_that_somebody_could_take_for_one(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.1)})
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    for group in groups(objects(tmp_path / "out", "report")[0]):
        assert "Finding" not in group
        assert group["Finding that was looked for"] == ["Fracture of bone"]
        assert group["Predicted label"] == ["Negative"]


def test_a_second_export_writes_the_same_bytes_and_a_changed_result_is_another_report(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    files = {"one.dcm": Screened(hand(1), 0.9)}
    run = dicom_clinic(files)
    for folder in ("first", "second"):
        assert bonescreen("export", "dicom", run, "-o", tmp_path / folder).code == 0
    names = {path.name for path in (tmp_path / "first").rglob("*.dcm")}
    assert names == {path.name for path in (tmp_path / "second").rglob("*.dcm")}
    for path in (tmp_path / "first").rglob("*.dcm"):
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()
    dicom_clinic({**files, "two.dcm": Screened(hand(2), 0.7)})
    assert bonescreen("export", "dicom", run, "-o", tmp_path / "third").code == 0
    later = {path.name for path in (tmp_path / "third").rglob("*.dcm")}
    assert {name for name in names if not name.startswith("report")} < later
    assert not {name for name in names & later if name.startswith("report")}


def test_the_heat_maps_pixels_carry_the_mark_and_the_image_under_its_colours(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    from bonescreen.exports.dicom.heat_map_image import mark_font

    dicom_clinic({"one.dcm": Screened(hand(BurnedInAnnotation="NO", ImageLaterality="L"), 0.9)})
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    (made,) = objects(tmp_path / "out", "heat-map")
    picture = made.pixel_array
    assert (made.PhotometricInterpretation, made.BitsAllocated, picture.shape[2]) == ("RGB", 8, 3)
    font = mark_font(picture.shape[1] - 32)
    band = round(1.6 * font.size)
    without = Image.new("RGB", (picture.shape[1], band), (16, 16, 16))
    marked = without.copy()
    ImageDraw.Draw(marked).text((marked.width // 2, band // 2), MARK, fill=(255, 214, 0), font=font, anchor="mm")
    assert np.array_equal(picture[:band], np.asarray(marked))
    assert np.count_nonzero(np.asarray(marked) != np.asarray(without)) > 0.03 * marked.width * band
    assert font.getlength(MARK) > 0.8 * picture.shape[1]
    # Warm colours lie in the upper left only, where the map is high.
    inside = picture[band + 20 : band + 500, 40 : picture.shape[1] - 160].astype(int)
    warm = inside[..., 0] - inside[..., 2] > 40
    half = np.array(warm.shape) // 2
    assert warm[: half[0], : half[1]].mean() > 0.3
    assert not warm[half[0] :, half[1] :].any()
    assert blend(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1)))[0, 0, 0] > 40
    assert (made.BodyPartExamined, made.Laterality, list(made.PatientOrientation)) == ("HAND", "L", ["L", "F"])
    assert made.BurnedInAnnotation == "NO"
    assert MARK in made.DerivationDescription
    assert made.ImageType[0] == "DERIVED"


@pytest.mark.parametrize("shape", [(40, 30), (30, 900), (2000, 1500)])
def test_the_mark_is_legible_on_an_image_of_any_size(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path, shape: tuple[int, int]
) -> None:
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])).astype(np.uint16) % 4000
    dicom_clinic({"one.dcm": Screened(hand(pixels=ramp), 0.9)})
    assert bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out").code == 0
    picture = objects(tmp_path / "out", "heat-map")[0].pixel_array
    assert 512 <= picture.shape[1] < 1400
    yellow = (picture[:120] == (255, 214, 0)).all(axis=2)
    columns = np.flatnonzero(yellow.any(axis=0))
    assert columns[-1] - columns[0] > 0.8 * picture.shape[1]
    assert np.flatnonzero(yellow.any(axis=1)).size >= 15


def test_outlines_lie_where_the_map_is_high_in_pixels_of_the_stored_image(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    (state,) = objects(tmp_path / "out", "outline")
    (annotation,) = state.GraphicAnnotationSequence
    (line,) = annotation.GraphicObjectSequence
    points = np.array(line.GraphicData).reshape(-1, 2)
    rows, columns = phantom().shape
    assert points.min() >= 0
    assert (points <= (columns, rows)).all()
    assert np.array_equal(points[0], points[-1])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    assert (middle < (columns / 2, rows / 2)).all()
    assert annotation.TextObjectSequence[0].UnformattedTextValue.startswith(MARK)
    assert state.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == f"{STUDY}.1.1"
    assert float(state.SoftcopyVOILUTSequence[0].WindowWidth) == 3000
    assert state.PresentationLUTShape == "IDENTITY"


def test_a_dark_map_has_no_outline_and_says_so(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)}, cam=((0.2, 0.1), (0.0, -1.0)))
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    (annotation,) = objects(tmp_path / "out", "outline")[0].GraphicAnnotationSequence
    assert "GraphicObjectSequence" not in annotation
    assert "Nothing reaches a quarter of its scale" in annotation.TextObjectSequence[0].UnformattedTextValue


def test_a_window_that_does_not_fit_the_pixels_is_not_asked_of_a_viewer(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9, detail=str(Repair.WINDOW))})
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert "SoftcopyVOILUTSequence" not in objects(tmp_path / "out", "outline")[0]


def test_an_image_whose_lowest_value_is_white_is_shown_as_it_is_meant(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    pixels = 4095 - phantom()
    dicom_clinic({"one.dcm": Screened(hand(pixels=pixels, PhotometricInterpretation="MONOCHROME1"), 0.9)})
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert objects(tmp_path / "out", "outline")[0].PresentationLUTShape == "INVERSE"


STATUSES: dict[str, tuple[dict[str, Screened], str, str | None, str]] = {
    "an unread image": (
        {"one.dcm": Screened(hand(1), 0.2), "two.dcm": Screened(hand(2), Reason.TRUNCATED)},
        "Incomplete: an image could not be read",
        None,
        "No probability: the file ends before the image does.",
    ),
    "an unread image, and positive all the same": (
        {"one.dcm": Screened(hand(1), 0.9), "two.dcm": Screened(hand(2), Reason.TRUNCATED)},
        "Incomplete: an image could not be read",
        "Positive",
        "No probability: the file ends before the image does.",
    ),
    "no image that could be read": (
        {"one.dcm": Screened(hand(1), Reason.CORRUPT)},
        "Not assessable: no image could be read",
        None,
        "No probability: the image data are damaged.",
    ),
    "a chest": (
        {"one.dcm": Screened(hand(1, BodyPartExamined="CHEST"), 0.95)},
        "Out of scope: the model does not know such images",
        None,
        "Out of scope: the model does not know this body part or modality.",
    ),
    "a picture unlike the training images": (
        {"one.dcm": Screened(hand(1), 0.95, distance=7.5)},
        "Out of scope: the model does not know such images",
        None,
        "Out of scope: unlike what the model has learnt from (distance 7.500, in scope up to 2.000).",
    ),
}


@pytest.mark.parametrize("case", STATUSES)
def test_a_study_without_a_whole_result_says_so_and_is_never_negative(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path, case: str
) -> None:
    files, status, label, why = STATUSES[case]
    dicom_clinic(files)
    assert bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out").code == 0
    (report,) = objects(tmp_path / "out", "report")
    assert (report.CompletionFlag, report.CompletionFlagDescription) == ("PARTIAL", status)
    of_study, *of_images = groups(report)
    assert of_study["Study status"] == [status]
    assert of_study.get("Predicted label") == (None if label is None else [label])
    last = of_images[-1]
    assert "Probability" not in last
    assert "Predicted label" not in last
    assert last["Comment"] == [why]
    assert last["Source of Measurement"] == [f"{STUDY}.1.{len(files)}"]
    # Evidence of what has no result would read as one.
    assert len(objects(tmp_path / "out", "heat-map")) == len(objects(tmp_path / "out", "outline")) == len(files) - 1


def test_images_that_do_not_count_are_listed_and_said_not_to(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    raw = {"PresentationIntentType": "FOR PROCESSING"}
    dicom_clinic(
        {
            "a.dcm": Screened(hand(1), 0.9, picture=bytes(256)),
            "b.dcm": Screened(hand(2), 0.1, picture=bytes(256)),
            "c.dcm": Screened(hand(3, **raw), 0.2, picture=bytes(range(256))),
        }
    )
    assert bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out").code == 0
    of_study, *of_images = groups(objects(tmp_path / "out", "report")[0])
    said = {
        image["How the image counts in the study's score"][0]: (
            image["Probability"][0],
            image["Source of Measurement"][0][-1],
        )
        for image in of_images
    }
    assert said == {
        "It counts": ("0.9", "1"),
        "Copy of another image: it does not count": ("0.1", "2"),
        "Raw image beside a finished one: it does not count": ("0.2", "3"),
    }
    assert of_study["Probability"] == ["0.9"]


def test_images_that_are_no_dicom_are_named_and_the_report_says_what_the_score_counts(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    png = BytesIO()
    Image.fromarray(phantom(levels=200, start=1, dtype=np.uint8)).save(png, "PNG")
    dicom_clinic({"one.dcm": Screened(hand(), 0.9), "two.png": Screened(png.getvalue(), 0.7, study=STUDY)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert done.code == 1
    assert "two.png: left out, as it is no DICOM file" in done.err
    assert "1 image left out" in done.err
    (report,) = objects(tmp_path / "out", "report")
    assert report.CompletionFlag == "PARTIAL"
    assert content(report)["Comment"][1:] == [
        "The score counts an image that is not listed here, as it is no DICOM file."
    ]
    assert "two.png" not in str(report)


def test_a_study_without_any_dicom_image_is_an_error_and_the_others_of_a_run_are_exported(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, home: Path, tmp_path: Path, tiny_package: ModelPackage
) -> None:
    pictured(home, tmp_path / "pictures", tiny_package, {"XR_HAND/p/study1_positive": [0.9]}, archive="pictures")
    done = bonescreen("export", "dicom", "XR_HAND/p/study1_positive", "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "XR_HAND/p/study1_positive: not exported: it holds no DICOM image that anything can refer to" in done.err
    assert not (tmp_path / "out").exists()
    bmp = BytesIO()
    Image.fromarray(phantom(levels=200, start=1, dtype=np.uint8)).save(bmp, "PNG")
    run = dicom_clinic({"dicom.dcm": Screened(hand(), 0.9), "b.png": Screened(bmp.getvalue(), 0.7, study="9.9")})
    done = bonescreen("export", "dicom", run, "-o", tmp_path / "out")
    assert done.code == 1
    assert "9.9: not exported: it holds no DICOM image" in done.err
    assert "Wrote 3 objects of 1 study." in done.err
    assert "1 study not exported: see above." in done.err


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


def test_a_name_that_its_character_set_does_not_explain_is_kept_and_never_printed(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    data = hand(PatientName="Mueller^Jane").replace(b"Mueller", b"M\xfcller ")
    dicom_clinic({"one.dcm": Screened(data, 0.9)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert done.code == 0
    assert {str(each.PatientName) for each in objects(tmp_path / "out")} == {"Müller ^Jane"}
    assert "ller" not in done.out + done.err


def test_a_changed_file_is_refused_with_the_way_out_and_nothing_of_its_study_is_written(
    bonescreen: Bonescreen, two_images: int, tmp_path: Path
) -> None:
    (tmp_path / "clinic" / "two.dcm").write_bytes(hand(3))
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "two.dcm has changed since it was screened" in done.err
    assert "screen its archive again" in done.err
    (tmp_path / "clinic" / "two.dcm").unlink()
    assert "two.dcm cannot be read any more" in bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out").err
    assert not (tmp_path / "out").exists()


def test_a_study_of_several_patients_or_of_several_dicom_studies_has_no_place_to_be_filed_in(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    dicom_clinic(
        {
            "p/one.dcm": Screened(hand(1), 0.9, patient_mark="aaaa0000"),
            "p/two.dcm": Screened(hand(2), 0.9, patient_mark="bbbb1111"),
            "s/one.dcm": Screened(hand(3, study="1.3.1"), 0.9, study="s", patient_mark="aaaa0000"),
            "s/two.dcm": Screened(hand(4, study="1.3.2"), 0.9, study="s", patient_mark="aaaa0000"),
        }
    )
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "its images are of 2 patients" in done.err
    done = bonescreen("export", "dicom", "s", "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "its images are of several DICOM studies" in done.err


def test_a_study_that_is_not_screened_yet_is_not_exported(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(1), 0.9), "two.dcm": Screened(hand(2), None)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "not all of its images are screened yet" in done.err


def test_images_with_one_uid_are_one_image_to_an_archive(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(1), 0.9), "two.dcm": Screened(hand(2, SOPInstanceUID=f"{STUDY}.1.1"), 0.7)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert done.code == 1
    assert "two.dcm: left out, as it has the SOP Instance UID of another image" in done.err
    assert len(objects(tmp_path / "out")) == 3


def test_objects_are_no_radiographs_to_the_next_scan(bonescreen: Bonescreen, two_images: int, tmp_path: Path) -> None:
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.dcm"):
        with pytest.raises(FileFault) as fault:
            read_header(BytesIO(path.read_bytes()))
        assert fault.value.reason is Reason.NOT_RADIOGRAPH
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "clinic" / "out")
    assert done.code == 2
    assert "is in the archive clinic" in done.err


def test_only_their_owner_may_read_the_objects(bonescreen: Bonescreen, two_images: int, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    finally:
        os.umask(before)
    made = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert {(path.is_dir(), oct(path.stat().st_mode & 0o777)) for path in made} == {(True, "0o700"), (False, "0o600")}


def test_a_dry_run_prints_what_would_be_written_and_sent_where_and_does_neither(
    bonescreen: Bonescreen, two_images: int, tmp_path: Path
) -> None:
    url = "dicomweb+http://127.0.0.1:9/dicom-web"
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", url, "--dry-run")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 5
    assert all(line.startswith(f"would write {tmp_path / 'out' / STUDY}/") for line in lines)
    assert all(line.endswith(f"and send it to {url}") for line in lines)
    assert not (tmp_path / "out").exists()


def test_a_number_that_names_a_run_and_a_study_is_asked_about(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    run = dicom_clinic({"one.dcm": Screened(hand(), 0.9, study="1")})
    assert run == 1
    done = bonescreen("export", "dicom", "1", "-o", tmp_path / "out")
    assert done.code == 2
    assert "'1' is a run and a study" in done.err
    for chosen in (("1", "--run", "1"), ("--run", "1")):
        assert bonescreen("export", "dicom", *chosen, "-o", tmp_path / "out").code == 0
    assert bonescreen("export", "dicom", "-o", tmp_path / "out").code == 2


def test_without_the_extra_the_command_says_how_to_install_it(tmp_path: Path) -> None:
    script = "import sys; sys.modules['highdicom'] = None\nfrom bonescreen.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script, "export", "dicom", "s", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "export dicom needs highdicom" in done.stderr
    assert "make install EXTRAS=dicom" in done.stderr


# -- Debian's validators ----------------------------------------------------------------------------------------------


def errors(path: Path) -> set[str]:
    """Return the errors that dciodvfy reports of a DICOM file."""
    done = subprocess.run(
        ["/usr/bin/dciodvfy", str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    assert "IOD" in done.stderr + done.stdout or done.stderr, done
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


VALIDATED: dict[str, Callable[[], bytes]] = {
    "CR, 12 bits": lambda: hand(),
    "CR with the white lowest": lambda: hand(pixels=4095 - phantom(), PhotometricInterpretation="MONOCHROME1"),
    "DX with a rescale": lambda: hand(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1",
        Modality="DX",
        RescaleSlope="2",
        RescaleIntercept="-10",
        RescaleType="US",
        WindowCenter=None,
        WindowWidth=None,
        ImagerPixelSpacing=[0.2, 0.1],
    ),
    "JPEG 2000": lambda: hand(syntax=LOSSLESS["jpeg 2000"][0], stream=LOSSLESS["jpeg 2000"][1](phantom())),
    "RLE, with a name in Latin-1": lambda: hand(
        syntax=LOSSLESS["rle"][0],
        stream=LOSSLESS["rle"][1](phantom()),
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Müller^Jörg",
    ),
    "colour": lambda: hand(
        pixels=np.repeat(phantom(levels=200, start=1, dtype=np.uint8)[..., None], 3, axis=2),
        SOPClassUID=str(SecondaryCaptureImageStorage),
        BitsStored=8,
        WindowCenter=None,
        WindowWidth=None,
    ),
    "a VOI LUT": lambda: hand(WindowCenter=None, WindowWidth=None, VOILUTSequence=[_lut()]),
    "values that are too long": lambda: hand(AccessionNumber="7" * 30),
}


def _lut() -> Dataset:
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 12]
    lut.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    return lut


@pytest.mark.parametrize("case", VALIDATED)
def test_dciodvfy_reports_no_error_that_the_image_itself_does_not_have(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path, case: str
) -> None:
    require_packages("dicom3tools")
    with config.disable_value_validation():
        dicom_clinic({"one.dcm": Screened(VALIDATED[case](), 0.9)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    # What identifies the patient is copied as it is, right or wrong; all else is right, also where the image lacks it.
    own = {line for line in errors(tmp_path / "clinic" / "one.dcm") if "invalid" in line}
    made = sorted((tmp_path / "out").rglob("*.dcm"))
    assert len(made) == 3
    for path in made:
        assert not errors(path) - own, path.name
    assert bool(own) == (case == "values that are too long")


def test_dsr2html_prints_the_report_with_a_name_for_each_item(
    bonescreen: Bonescreen, two_images: int, tmp_path: Path
) -> None:
    require_packages("dcmtk")
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    (report,) = (tmp_path / "out").rglob("report*.dcm")
    done = subprocess.run(["/usr/bin/dsr2html", str(report), str(tmp_path / "page.html")], check=False)
    assert done.returncode == 0
    page = (tmp_path / "page.html").read_text()
    for text in (MARK, "<b>Probability:</b>", "0.8", "Positive", "UNVERIFIED", "<b>Study status:</b>"):
        assert text in page
