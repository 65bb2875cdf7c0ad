"""The outlines of a heat map as a presentation state: where they lie, and how the image below is shown."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

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


def test_a_lookup_table_maps_the_same_values_with_as_many_bits(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    luts = {}
    for kind in ("ModalityLUTSequence", "VOILUTSequence"):
        luts[kind] = Dataset()
        luts[kind].add_new("LUTDescriptor", "SS", [4096, -2048, 12])
        luts[kind].add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    luts["ModalityLUTSequence"].ModalityLUTType = "OD"
    pixels = phantom().astype(np.int16) - 2000
    sequences = {kind: [lut] for kind, lut in luts.items()}
    dicom_clinic({"one.dcm": Screened(hand(pixels=pixels, BitsStored=16, **sequences), 0.9)})
    assert bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out").code == 0
    (state,) = objects(tmp_path / "out", "outline")
    assert list(state.ModalityLUTSequence[0].LUTDescriptor) == [4096, -2048, 12]
    assert state.ModalityLUTSequence[0].LUTData == luts["ModalityLUTSequence"].LUTData
    # The brightest entry of the other is white, whatever its descriptor says.
    (voi,) = state.SoftcopyVOILUTSequence[0].VOILUTSequence
    assert list(voi.LUTDescriptor) == [4096, -2048, 16]
    assert np.frombuffer(voi.LUTData, "<u2").max() == 65535


def test_a_lookup_table_of_packed_entries_is_read_as_it_is_for_screening(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [256, 0, 8], "OD"
    lut.add_new("LUTData", "OW", np.arange(256, dtype=np.uint8).tobytes())
    pixels = phantom(levels=200, start=1, dtype=np.uint8).astype(np.uint16)
    luts = {"ModalityLUTSequence": [lut], "VOILUTSequence": [lut]}
    dicom_clinic({"one.dcm": Screened(hand(pixels=pixels, WindowCenter=None, WindowWidth=None, **luts), 0.9)})
    assert bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out").code == 0
    (state,) = objects(tmp_path / "out", "outline")
    (modality,) = state.ModalityLUTSequence
    assert (list(modality.LUTDescriptor), modality.LUTData) == ([256, 0, 8], lut.LUTData)
    (voi,) = state.SoftcopyVOILUTSequence[0].VOILUTSequence
    assert list(voi.LUTDescriptor) == [256, 0, 16]
    assert np.array_equal(np.frombuffer(voi.LUTData, "<u2"), 257 * np.arange(256))


def test_an_image_whose_lowest_value_is_white_is_shown_as_it_is_meant(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    pixels = 4095 - phantom()
    dicom_clinic({"one.dcm": Screened(hand(pixels=pixels, PhotometricInterpretation="MONOCHROME1"), 0.9)})
    bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert objects(tmp_path / "out", "outline")[0].PresentationLUTShape == "INVERSE"
