"""The structured report of a study: what it says of scores and labels, and where there are none."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bonescreen.conftest import Bonescreen, DicomClinic
from tests.bonescreen.dicom_objects import MARK, content, groups, objects
from tests.dicom_clinic import STUDY, Screened, hand
from tests.dicoms import phantom
from xray.network.package import ModelPackage
from xray.vocabulary import Reason


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
