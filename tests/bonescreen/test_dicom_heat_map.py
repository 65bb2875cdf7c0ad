"""The heat map of an image as a Secondary Capture: the mark and the colours in its pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.bonescreen.conftest import Bonescreen, DicomClinic
from tests.bonescreen.dicom_objects import MARK, objects
from tests.dicom_clinic import STUDY, Screened, hand
from xray.images.preprocessing import Preprocessing
from xray.network.heatmap import blend


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


def test_a_models_name_is_drawn_as_escape_sequences_where_the_font_lacks_characters() -> None:
    from bonescreen.exports.dicom.heat_map_image import draw_picture

    drawn = [
        draw_picture(
            np.zeros((64, 64), np.uint8),
            np.ones((2, 2)),
            preprocessing=Preprocessing(64, "pad"),
            scale=1.0,
            caption=[name],
        )
        for name in ("H\u00fcfte 1", "H\\xfcfte 1")
    ]
    assert np.array_equal(*drawn)
