"""The outlines of a heat map as a presentation state: where they lie, and how the image below is shown."""

from pathlib import Path

import numpy as np

from tests.bonescreen.conftest import Bonescreen, DicomClinic
from tests.bonescreen.dicom_objects import MARK, objects
from tests.dicom_clinic import STUDY, Screened, hand
from tests.dicoms import phantom
from xray.vocabulary import Repair


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
