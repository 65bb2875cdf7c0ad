"""`bonescreen export deidentified`: a folder for a colleague that names no patient and screens to the same scores."""

import csv
import io
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.archives import image_pixels, png
from tests.bonescreen.conftest import Bonescreen
from tests.bonescreen.processes import run
from tests.dicoms import dicom, phantom
from xray.network.package import ModelPackage
from xray.pseudonym import pseudonym, pseudonymous_uid
from xray.vocabulary import RESEARCH_NOTICE

KEY = "0123456789abcdef0123456789abcdef"
NAMES = (b"SECRET", b"Doe", b"19480321", b"1.2.77.")


WINDOW = b"\x28\0\x50\x10DS\x04\x001500"
"""Window Center as it is in a file."""


@dataclass(frozen=True)
class Clinic:
    """An archive of DICOM files, screened in run 1, and a PNG in run 2."""

    root: Path
    environ: dict[str, str]

    def results(self, *options: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = json.loads(run(self.environ, "results", *options, "--format", "json").stdout)
        return rows


def _write(root: Path) -> None:
    """Write studies of two patients as an archive has them: compressed, with a lookup table, copies, a damaged file."""
    nested = Dataset()
    nested.CodeMeaning, nested.PatientName, nested.ReferencedSOPInstanceUID = "Hand", "SECRET^Nested", "1.2.77.9"

    def put(path: str, pixels: np.ndarray, study: str, **elements: object) -> bytes:
        named = {
            "PatientName": "Doe^SECRET", "PatientID": "SECRET-ONE", "PatientBirthDate": "19480321",
            "StudyDate": "19480321", "InstitutionName": "SECRET clinic", "StudyDescription": "SECRET",
            "StudyInstanceUID": f"1.2.77.{study}", "SeriesInstanceUID": f"1.2.77.{study}.1",
            "SOPInstanceUID": f"1.2.77.{study}.{len(path)}", "BodyPartExamined": "HAND", "BitsStored": 12,
            "AnatomicRegionSequence": Sequence([nested]), **elements,
        }  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data := dicom(pixels, **named))
        return data

    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 12]
    lut.add_new("LUTData", "OW", np.linspace(0, 4095, 4096).astype("<u2").tobytes())
    hand, elbow, wrist = phantom(), phantom(2500, 500)[::-1], phantom(2000, 900)[:, ::-1]
    stream = imagecodecs.jpeg2k_encode(elbow, codecformat="j2k", reversible=True, bitspersample=12)
    put("SECRET/ONE/a", hand, "1", WindowCenter="1500", WindowWidth="2000")
    put("SECRET/ONE/bc", elbow, "1", stream=stream, syntax=uid.JPEG2000Lossless)
    put("SECRET/ONE/copy", hand, "1", PatientComments="SECRET", PatientID=None, PatientName=None)
    put("SECRET/later", wrist, "2", VOILUTSequence=Sequence([lut]), BodyPartExamined="WRIST")
    put("inverted", 4095 - hand, "3", PhotometricInterpretation="MONOCHROME1", PatientID="SECRET-TWO")
    put("chest", phantom(3000, 100), "4", BodyPartExamined="CHEST", PatientID=None, PatientName=None)
    put("marked", phantom(1800, 20), "5", BurnedInAnnotation="YES", PatientID="SECRET-SIX")
    put("mixed/a", phantom(1600, 40), "7", PatientID="SECRET-A", PatientName=None)
    put("mixed/b", phantom(1500, 50), "7", PatientID=None, PatientName="SECRET^B")
    twice = put("twice", phantom(1400, 60), "8", WindowCenter="1500", WindowWidth="2000")
    (root / "twice").write_bytes(twice.replace(WINDOW, WINDOW + WINDOW.replace(b"1500", b" 700")))
    damaged = put("damaged", phantom(1700, 30), "6")
    (root / "damaged").write_bytes(damaged[:-3000])


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, tiny_package: ModelPackage) -> Clinic:
    folder = tmp_path_factory.mktemp("clinic")
    _write(folder / "archive")
    (folder / "picture.png").write_bytes(png(3))
    environ = {**os.environ, "BONESCREEN_HOME": str(folder / "home"), "BONESCREEN_MODEL": str(tiny_package.path)}
    done = run(environ, "screen", folder / "archive", folder / "picture.png")
    assert done.returncode == 0, done.stderr
    return Clinic(folder / "archive", environ)


@pytest.fixture
def export(clinic: Clinic, bonescreen: Bonescreen, monkeypatch: pytest.MonkeyPatch) -> Bonescreen:
    """Run `bonescreen export deidentified` on the clinic, in this process."""
    monkeypatch.setenv("BONESCREEN_HOME", clinic.environ["BONESCREEN_HOME"])
    monkeypatch.setenv("BONESCREEN_MODEL", clinic.environ["BONESCREEN_MODEL"])
    monkeypatch.setenv("BONESCREEN_PSEUDONYM_KEY", KEY)
    return lambda *arguments: bonescreen("export", "deidentified", *arguments)


def _table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))


def _study(original: str) -> str:
    return pseudonymous_uid(KEY.encode(), original)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_export_names_no_patient_and_screens_to_the_same_scores(
    clinic: Clinic, export: Bonescreen, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = export("--run", 1, "-o", out)
    assert done.code == 1
    for path in out.rglob("*"):
        named = [part for part in NAMES if part in str(path.relative_to(out)).encode()]
        named += [part for part in NAMES if path.is_file() and part in path.read_bytes()]
        assert not named, path

    # In the same home, as its model is loaded there already; no file of the export is one of the archive.
    again = run(clinic.environ, "screen", out)
    assert again.returncode == 0, again.stderr
    # A file that named nobody has a pseudonym now.
    ignored = ("run", "study", "changed_at", "path", "patients")
    expected, found = (
        {str(row["study"]): {name: value for name, value in row.items() if name not in ignored} for row in rows}
        for rows in (clinic.results("--run", "1"), clinic.results("--run", "3"))
    )
    expected = {_study(key): row for key, row in expected.items() if key not in ("1.2.77.5", "1.2.77.6", "1.2.77.8")}
    assert found == expected
    assert len({row["score"] for row in found.values()}) == 4
    told = {row["study"]: row for row in _table(out / "studies.csv")}
    for study, row in expected.items():
        assert told[study]["score"] == ("" if row["score"] is None else f"{row['score']:.4f}")
        assert (told[study]["status"], told[study]["notice"]) == (row["status"], RESEARCH_NOTICE)


def test_patients_studies_and_files_have_names_that_only_the_key_explains(export: Bonescreen, tmp_path: Path) -> None:
    export("--run", 1, "-o", tmp_path / "out")
    patient, study = pseudonym(KEY.encode(), "SECRET-ONE"), _study("1.2.77.1")
    files = _files(tmp_path / "out")
    assert [name for name in files if name.startswith(f"{patient}/{study}/")] == [
        f"{patient}/{study}/image{number}.dcm" for number in (1, 2, 3)
    ]
    assert f"{patient}/{_study('1.2.77.2')}/image1.dcm" in files
    written = dcmread(tmp_path / "out" / patient / study / "image1.dcm")
    assert (written.PatientID, written.StudyInstanceUID) == (patient, study)
    rows = {row["file"]: row for row in _table(tmp_path / "out" / "images.csv")}
    assert rows.keys() == {name for name in files if name.endswith(".dcm")}
    (row,) = (row for name, row in rows.items() if name.endswith(f"{study}/image1.dcm"))
    assert (row["study"], row["study_instance_uid"], row["patient"]) == (study, study, patient)
    nobody = next(row for row in rows.values() if row["body_part"] == "CHEST")
    assert nobody["patient"] == dcmread(tmp_path / "out" / nobody["file"]).PatientID


def test_the_patients_of_one_study_have_a_pseudonym_each(export: Bonescreen, tmp_path: Path) -> None:
    assert export("1.2.77.7", "-o", tmp_path / "out").code == 0
    (study,) = _table(tmp_path / "out" / "studies.csv")
    assert (study["status"], study["patient"]) == ("not assessable", "")
    patients = [row["patient"] for row in _table(tmp_path / "out" / "images.csv")]
    assert patients[0] == pseudonym(KEY.encode(), "SECRET-A") != patients[1]


def test_a_patient_and_a_study_have_the_same_names_in_every_export_with_a_key_and_others_with_another(
    export: Bonescreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export("1.2.77.1", "-o", tmp_path / "one").code == 0
    assert export("1.2.77.1", "1.2.77.2", "-o", tmp_path / "two").code == 0
    one, two = ({*_files(tmp_path / name)} for name in ("one", "two"))
    assert one < two
    assert len({name.split("/")[0] for name in two if "/" in name}) == 1
    first = next(name for name in one if name.endswith("image1.dcm"))
    assert (tmp_path / "one" / first).read_bytes() == (tmp_path / "two" / first).read_bytes()
    monkeypatch.setenv("BONESCREEN_PSEUDONYM_KEY", KEY[::-1])
    assert export("1.2.77.1", "-o", tmp_path / "other").code == 0
    assert {*_files(tmp_path / "other")} & one == {"README.txt", "images.csv", "studies.csv"}


def test_what_is_not_exported_is_named_with_the_reason_and_the_rest_is_exported(
    clinic: Clinic, export: Bonescreen, tmp_path: Path
) -> None:
    shutil.copy(clinic.root / "inverted", tmp_path / "kept")
    try:
        (clinic.root / "inverted").write_bytes(dicom(phantom()))
        done = export("--run", 1, "-o", tmp_path / "out")
    finally:
        shutil.copy2(tmp_path / "kept", clinic.root / "inverted")
    assert done.code == 1
    assert "inverted: not exported: the file has changed since it was screened" in done.err
    assert "damaged: not exported: " in done.err, done.err
    assert "marked: not exported: the file says that text is burned into its picture; look at it" in done.err
    assert "twice: not exported: its picture would not be the same" in done.err
    assert "4 images not exported: see above" in done.err
    assert sum(name.endswith(".dcm") for name in _files(tmp_path / "out")) == 7
    readme = (tmp_path / "out" / "README.txt").read_text()
    assert "8 studies, 7 images; 4 images of these studies not exported." in readme
    assert RESEARCH_NOTICE in readme
    assert "THE PICTURES ARE AS THEY WERE" in readme


def test_an_export_that_an_outage_stops_says_that_its_folder_is_not_complete(
    clinic: Clinic, export: Bonescreen, tmp_path: Path
) -> None:
    # Of two archives, one is away.
    clinic.root.rename(tmp_path / "away")
    try:
        done = export("picture.png", "1.2.77.1", "-o", tmp_path / "out", "--pictures-checked")
    finally:
        (tmp_path / "away").rename(clinic.root)
    assert done.code == 1
    assert "Stopped: 1 of 2 studies done." in done.err
    assert f"{tmp_path / 'out'} is not complete: delete it, and start again." in done.err
    assert [Path(name).suffix for name in _files(tmp_path / "out")] == [".png"]


def test_pictures_that_somebody_has_checked_are_exported_those_without_a_header_as_a_bare_png(
    export: Bonescreen, tmp_path: Path
) -> None:
    done = export("1.2.77.5", "picture.png", "-o", tmp_path / "unseen")
    assert done.code == 1
    assert "picture.png: not exported: a PNG, JPEG or TIFF file does not say whether" in done.err
    assert len(_files(tmp_path / "unseen")) == 3
    done = export("1.2.77.5", "picture.png", "-o", tmp_path / "out", "--pictures-checked")
    assert done.code == 0, done.err
    (picture,) = (tmp_path / "out").rglob("*.png")
    data = picture.read_bytes()
    assert np.array_equal(imagecodecs.png_decode(data), image_pixels(3))
    assert [data[at : at + 4] for at in _chunks(data)] == [b"IHDR", b"IDAT", b"IEND"]
    (marked,) = (tmp_path / "out").rglob("*.dcm")
    assert dcmread(marked).BurnedInAnnotation == "YES"
    assert "were checked: 2 images." in (tmp_path / "out" / "README.txt").read_text()


def _chunks(data: bytes) -> list[int]:
    starts, at = [], 8
    while at < len(data):
        starts.append(at + 4)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return starts


def test_only_their_owner_may_read_the_files_and_none_is_half_written(export: Bonescreen, tmp_path: Path) -> None:
    export("1.2.77.1", "-o", tmp_path / "new" / "out")
    for path in [tmp_path / "new", *(tmp_path / "new").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert [name for name in _files(tmp_path / "new") if name.endswith(".part")] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "STUDY is missing; name studies, or export a run with --run, or flagged ones with --flagged"),
        (["--flagged", "1.2.77.1"], "--flagged exports all flagged studies; leave it out"),
        (["1.2.99"], "no study '1.2.99'"),
        (["--run", "7"], "no run 7"),
    ],
)
def test_which_studies_is_said_in_one_way(export: Bonescreen, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = export(*arguments, "-o", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not (tmp_path / "out").exists()


def _without_key(clinic: Clinic, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BONESCREEN_PSEUDONYM_KEY")
    return folder


def _without_library(clinic: Clinic, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "dicomanonymizer", None)
    return folder


def _full(clinic: Clinic, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    (folder / "a file").touch()
    return folder


def _inside(clinic: Clinic, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return clinic.root / "out"


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (_without_key, "export deidentified needs BONESCREEN_PSEUDONYM_KEY, with which pseudonyms"),
        (
            _without_library,
            "export deidentified needs dicom-anonymizer; in bonescreen's folder, run: make install EXTRAS=dicom",
        ),
        (_full, "is not empty; choose a new folder"),
        (_inside, "is in the archive archive: its next scan would take the copies for new studies"),
    ],
)
def test_nothing_is_written_without_a_key_the_library_or_a_folder_of_its_own(
    clinic: Clinic,
    export: Bonescreen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Clinic, Path, pytest.MonkeyPatch], Path],
    said: str,
) -> None:
    output = prepare(clinic, tmp_path / "out", monkeypatch)
    before = _files(output) if output.exists() else None
    done = export("1.2.77.1", "-o", output)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert (_files(output) if output.exists() else None) == before
