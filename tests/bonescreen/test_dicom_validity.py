"""The DICOM objects of results to Debian's dciodvfy and dsr2html."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import (
    SecondaryCaptureImageStorage,
)

from tests.bonescreen.conftest import Bonescreen, DicomClinic
from tests.bonescreen.dicom_objects import MARK
from tests.debian_packages import require_packages
from tests.dicom_clinic import STUDY, Screened, hand
from tests.dicoms import LOSSLESS, phantom


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
    "de-identified by a method that only a code names": lambda: hand(
        PatientIdentityRemoved="YES", DeidentificationMethodCodeSequence=[_code()]
    ),
    "values that are too long": lambda: hand(AccessionNumber="7" * 30),
}


def _lut() -> Dataset:
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 12]
    lut.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    return lut


def _code() -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    return code


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
