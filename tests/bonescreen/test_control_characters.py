"""Characters that control a terminal, in names, tables and headers: they never reach it."""

from pathlib import Path

import pytest
from rich.text import Text

from bonescreen.terminal import table_lines
from tests.archives import png
from tests.bonescreen.conftest import Bonescreen
from tests.clinics import dicom_image, put
from training.progress import Progress
from xray.network.package import ModelPackage

CLEAR = "\x1b[2J"
WINDOW_TITLE = "\x9d0;owned\x07"


@pytest.fixture
def clinic(tmp_path: Path, home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive whose manifest and headers hold what controls a terminal, wherever they may hold a text."""
    clinic = tmp_path / "clinic"
    put(clinic, "1.png", png(1))
    put(clinic, f"2{CLEAR}.png", png(2)[:50])
    # pydicom warns of such values where it writes them.
    header = {
        "AccessionNumber": "AQQQQ",
        "BodyPartExamined": "HANDQQQQ",
        "ViewPosition": "APQQQQ",
        "PatientID": "PQQQQ",
    }
    put(clinic, "3.dcm", dicom_image(3, **header).replace(b"QQQQ", CLEAR.encode()))
    lines = [
        "study,image,label,body_part,view,patient",
        f"one,1.png,,FOOT,AP,4711{CLEAR}",
        f"two,2{CLEAR}.png,,,,",
        "three,3.dcm,,,,",
        f"four,missing{CLEAR}.png,,,,",
    ]
    (clinic / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for column in ("study", "label", "body_part", "view"):
        put(tmp_path / column, "manifest.csv", f"study,image,{column}\none,1.png,A{WINDOW_TITLE}\n".encode())
    put(tmp_path / "folders", f"study{WINDOW_TITLE}/a{CLEAR}.png", png(4))
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny_package.path))
    monkeypatch.setenv("BONESCREEN_KEEP", "accession,date,modality,path")
    return clinic


def test_no_command_prints_a_control_character_of_a_manifest_or_a_header(
    bonescreen: Bonescreen, clinic: Path, home: Path
) -> None:
    commands: list[list[object]] = [
        ["enqueue", "--dry-run", clinic],
        ["enqueue", clinic],
        ["results", "--images", "--format", "csv"],
        ["results", "--images"],
        ["enqueue", clinic.with_name("folders")],
        *(["enqueue", clinic.with_name(column)] for column in ("study", "label", "body_part", "view")),
        ["status"],
        ["results"],
        ["results", "--images"],
        ["results", "--format", "csv"],
        ["results", "--images", "--format", "csv"],
        ["results", "--format", "json"],
        ["results", "--body-part", f"HAND{CLEAR}"],
        ["study", f"study{WINDOW_TITLE}"],
        ["study", f"none{CLEAR}"],
        ["study", "three"],
        ["failures"],
    ]
    printed = ""
    for command in commands:
        done = bonescreen(*command)
        printed += done.out + done.err
        controls = [c for c in done.out + done.err if not c.isprintable() and c != "\n"]
        assert controls == [], command
    assert "study\\x9d0;owned\\x07" in printed
    assert "2\\x1b[2J.png" in printed
    assert "missing\\x1b[2J.png" in printed


def test_a_styled_cell_and_a_line_of_training_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    (_, row) = table_lines(("finding",), [[Text(f"positive: {CLEAR}", "bold red")]], None)
    assert row.plain == "positive: \\x1b[2J"
    Progress().say(f"FOOT{CLEAR}")
    assert capsys.readouterr().out == "FOOT\\x1b[2J\n"
