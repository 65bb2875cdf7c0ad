"""`bonescreen export dicom`: which studies and images it writes as DICOM objects, where, and which not."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import (
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
)

from tests.bonescreen.conftest import Bonescreen, DicomClinic, Done
from tests.bonescreen.dicom_objects import MARK, content, objects
from tests.dicom_clinic import STUDY, Screened, hand
from tests.dicoms import phantom
from tests.pictured import pictured
from xray.errors import FileFault
from xray.images.dicom.header import read_header
from xray.network.package import ModelPackage
from xray.vocabulary import Reason


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


def test_a_file_of_several_frames_is_left_out_and_the_report_says_that_its_study_holds_it(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    frames = hand(2, NumberOfFrames="2")
    dicom_clinic({"one.dcm": Screened(hand(1), 0.9), "two.dcm": Screened(frames, Reason.MULTI_FRAME, study=STUDY)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out")
    assert done.code == 1
    why = "it cannot be read as a radiograph (the file holds more than one frame)"
    assert f"two.dcm: left out, as {why}" in done.err
    (report,) = objects(tmp_path / "out", "report")
    assert (report.CompletionFlag, content(report)["Comment"][1:]) == (
        "PARTIAL",
        [f"The study holds an image that is not listed here, as {why}."],
    )


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


def test_a_number_that_names_neither_a_run_nor_a_study_is_said_to(
    bonescreen: Bonescreen, two_images: int, tmp_path: Path
) -> None:
    done = bonescreen("export", "dicom", "99", "-o", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert "there is no run 99, and no study whose name ends with it; see: bonescreen runs" in done.err


def test_without_the_extra_the_command_says_how_to_install_it(tmp_path: Path) -> None:
    script = "import sys; sys.modules['highdicom'] = None\nfrom bonescreen.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script, "export", "dicom", "s", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "export dicom needs highdicom" in done.stderr
    assert "make install EXTRAS=dicom" in done.stderr
