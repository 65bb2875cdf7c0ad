"""`screen` and `enqueue` of DICOMweb services: what is wrong is said before anything is asked."""

from pathlib import Path

import pytest

from tests.archives import png
from tests.bonescreen.conftest import Bonescreen

SERVICE = "dicomweb+https://pacs.example/dicom-web"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "yesterday"], "must be a day, such as 2026-11-30"),
        (["--modality", "x-ray"], "must be DICOM's terms, joined by commas, such as CR,DX"),
        (["--modality", ""], "must be DICOM's terms"),
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
