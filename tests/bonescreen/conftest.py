"""The command line as people use it, in this process."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bonescreen.cli import main
from tests.dicom_clinic import Screened, hand, screened_dicoms
from xray.archive_root import Root
from xray.network.package import ModelPackage


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


Bonescreen = Callable[..., Done]
DicomClinic = Callable[..., int]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a BONESCREEN_HOME of its own, and no other setting."""
    for name in (
        "BROKER_URL",
        "DATABASE_URL",
        "ARCHIVES",
        "MODEL",
        "ENGINE",
        "PRECISION",
        "BATCH_SIZE",
        "PSEUDONYM_KEY",
        "WORKER_NAME",
        "FLOWER_USER",
        "FLOWER_PASSWORD",
        "DICOMWEB",
    ):
        monkeypatch.delenv(f"BONESCREEN_{name}", raising=False)
    monkeypatch.setenv("BONESCREEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def bonescreen(capsys: pytest.CaptureFixture[str]) -> Bonescreen:
    """Run one command; gives its exit code and both outputs."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(left.value.code if isinstance(left.value.code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def environ(home: Path, tiny_package: ModelPackage) -> dict[str, str]:
    """Return the environment of a process with a home of its own and the tiny model."""
    return {**os.environ, "BONESCREEN_HOME": str(home), "BONESCREEN_MODEL": str(tiny_package.path), "COLUMNS": "120"}


@pytest.fixture
def dicom_clinic(
    tmp_path: Path, home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> DicomClinic:
    """Screen DICOM files, by path, with the tiny package; gives the run."""
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny_package.path))

    def screen(files: dict[str, Screened], root: Root = tmp_path / "clinic", **options: Any) -> int:
        return screened_dicoms(home, root, tiny_package, files, **options)

    return screen


@pytest.fixture
def two_images(dicom_clinic: DicomClinic) -> int:
    """Screen a study of two images: its score is 0.8."""
    return dicom_clinic({"one.dcm": Screened(hand(1), 0.9), "two.dcm": Screened(hand(2), 0.7)})
