"""`screen` and `enqueue` of DICOMweb services: what is wrong is said before anything is asked."""

from pathlib import Path

import pytest

from bonescreen.commands.arguments import as_modalities
from db.scans import open_scans
from db.session import Database
from tests.archives import png
from tests.bonescreen.conftest import Bonescreen, DicomClinic
from tests.dicom_clinic import STUDY, Screened, hand
from xray.dicomweb import parse_service

SERVICE = "dicomweb+https://pacs.example/dicom-web"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "yesterday"], "must be a day, such as 2026-11-30"),
        (["--modality", "x-ray"], "must be DICOM's terms, joined by commas, such as CR,DX"),
        (["--modality", ""], "must be DICOM's terms"),
        (["--modality", "CR,XR"], "XR is no modality that DICOM defines; those of radiographs are CR, DX, IO, MG,"),
        (["--since", "2026-11-30"], "no DICOMweb service; --since and --modality are for those only"),
        (["--modality", "CR,DX"], "no DICOMweb service; --since and --modality are for those only"),
    ],
)
@pytest.mark.parametrize("command", ["screen", "enqueue"])
def test_studies_are_chosen_of_a_service_only_and_by_dates_and_terms(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, command: str, arguments: list[str], said: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.png").write_bytes(png(1))
    done = bonescreen(command, folder, "--dry-run", *arguments)
    assert (done.code, said in " ".join(done.err.split())) == (2, True), done.err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("dicomweb+https://me:s3cret@pacs.example/x", "(docs/dicomweb.md)"),
        ("dicomweb+http://pacs.example/x", "in the clear"),
        ("dicomweb+ftp://pacs.example/x", "dicomweb+https://host/dicom-web"),
    ],
)
def test_a_service_that_may_not_be_asked_is_refused(bonescreen: Bonescreen, home: Path, url: str, said: str) -> None:
    done = bonescreen("screen", url, "--dry-run")
    text = " ".join(done.err.split())
    assert (done.code, "cret" in text) == (2, False)
    assert said in text


def test_a_layout_of_a_service_is_refused(bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONESCREEN_ARCHIVES", f"pacs={SERVICE}")
    done = bonescreen("screen", "pacs", "--layout", "mura", "--dry-run")
    assert (done.code, "leave out --layout" in " ".join(done.err.split())) == (2, True)
    # There was no dry run either.
    assert done.out == ""


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        (["screen", "pacs"], "s3cret", "is not a TOML file"),
        (["screen", SERVICE], f"['{SERVICE}']\npasword = 's3cret'", "'pasword' is unknown"),
        (["screen", "pacs", "--dry-run"], None, "cannot be read (No such file or directory)"),
        (["enqueue", "pacs"], f"['{SERVICE}']\nuser = 'me'\npassword = 5", "password must be a text"),
        (["worker"], f"['{SERVICE}']\nuser = 'me'\npassword_variable = 'NO_SUCH'", "the environment has no NO_SUCH"),
        (["feed"], f"['{SERVICE}']\nca_file = '/no/such'", "/no/such cannot be read"),
        (["heatmap", STUDY, "-o", "maps"], "s3cret", "is not a TOML file"),
    ],
)
def test_a_wrong_file_of_credentials_is_wrong_usage_and_nothing_is_asked_or_begun(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, home: Path, monkeypatch: pytest.MonkeyPatch,
    command: list[str], text: str | None, said: str,
) -> None:  # fmt: skip
    dicom_clinic({f"{STUDY}/1/1": Screened(hand(), 0.9)}, parse_service(SERVICE), archive="pacs")
    monkeypatch.chdir(home.parent)
    if text is not None:
        Path("dicomweb.toml").write_text(text)
    monkeypatch.setenv("BONESCREEN_ARCHIVES", f"pacs={SERVICE}")
    monkeypatch.setenv("BONESCREEN_DICOMWEB", "dicomweb.toml")
    monkeypatch.setenv("BONESCREEN_BROKER_URL", "redis://127.0.0.1:9/0")
    done = bonescreen(*command)
    assert (done.code, done.out) == (2, "")
    assert f"{home.parent}/dicomweb.toml" in (line := " ".join(done.err.split()))
    assert said in line
    assert "s3cret" not in line
    assert open_scans(Database(f"sqlite:///{home / 'bonescreen.db'}")) == []


def test_modalities_may_be_written_in_lower_case() -> None:
    assert as_modalities("cr, dx") == "CR,DX"
