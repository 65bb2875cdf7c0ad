"""`bonescreen screen` on the archives that people have: DICOM, zips, manifests, and folders that grow every night."""

import csv
import io
import threading
import zipfile
from pathlib import Path
from unicodedata import normalize

import imagecodecs
import numpy as np
from pydicom import uid

from tests.archives import flat_tree, image_pixels, mura_tree, png
from tests.bonescreen.processes import run
from tests.dicoms import dicom, phantom
from xray.vocabulary import Repair


def rows(environ: dict[str, str]) -> dict[str, dict[str, str]]:
    listed = run(environ, "results", "--format", "csv").stdout
    # Each was screened at a time of its own.
    return {row["study"]: {**row, "changed_at": ""} for row in csv.DictReader(io.StringIO(listed))}


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as container:
        for file in sorted(folder.rglob("*.*")):
            container.write(file, file.relative_to(folder).as_posix())
    return target


def test_a_zip_is_screened_as_its_folder_is_and_nothing_is_unpacked(tmp_path: Path, environ: dict[str, str]) -> None:
    mura_tree(tmp_path / "mura", 6)
    container = zipped(tmp_path / "mura", tmp_path / "images.zip")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run({**environ, "TMPDIR": str(scratch)}, "screen", container)
    assert done.returncode == 0, done.stderr
    assert "(layout mura)" in done.stderr
    assert {path.suffix for path in Path(environ["BONESCREEN_HOME"]).rglob("*.png")} == set()
    assert list(scratch.rglob("*.png")) == []
    from_zip = rows(environ)
    other = {**environ, "BONESCREEN_HOME": str(tmp_path / "other")}
    assert run(other, "screen", tmp_path / "mura").returncode == 0
    from_folder = rows(other)
    assert from_zip == from_folder
    assert len(from_zip) > 1
    drawn = run(environ, "heatmap", next(iter(from_zip)), "-o", tmp_path / "drawn")
    assert drawn.returncode == 0, drawn.stderr
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in drawn.stdout.split())


def test_a_dicom_archive_is_screened_by_study_and_says_what_it_skipped(tmp_path: Path, environ: dict[str, str]) -> None:
    root = tmp_path / "pacs"
    for number, folder in enumerate(("DISC1/ST000/IM000", "DISC2/ST007/IM003")):
        file = root / folder
        file.parent.mkdir(parents=True)
        file.write_bytes(dicom(image_pixels(number), BodyPartExamined="HUMERUS", PatientID="PAT-4711-K"))
    chest = dicom(image_pixels(2), StudyInstanceUID="1.2.8", BodyPartExamined="CHEST", PatientName="Roe^Richard")
    (root / "chest").write_bytes(chest)
    (root / "slice").write_bytes(dicom(image_pixels(3), SOPClassUID=uid.CTImageStorage, Modality="CT"))
    (root / "broken.dcm").write_bytes(dicom(np.full((8, 8), 7, np.uint8), PatientID="PAT-4711-K")[:-30])
    done = run({**environ, "BONESCREEN_PSEUDONYM_KEY": "0123456789abcdef"}, "screen", root)
    assert done.returncode == 0, done.stderr
    assert "skipped 1 DICOM file that is not a radiograph (CT Image Storage)" in done.stderr
    told = {study: (row["status"], row["body_part"], row["images"]) for study, row in rows(environ).items()}
    assert told["1.2.8"] == ("out of scope", "CHEST", "1")
    assert told["1.2.3"] == ("incomplete", "HUMERUS", "3")
    failed = run(environ, "failures").stdout
    assert "truncated" in failed
    assert "broken.dcm" in failed
    everything = b"".join(path.read_bytes() for path in Path(environ["BONESCREEN_HOME"]).rglob("*") if path.is_file())
    assert b"1.2.8" in everything
    for identity in (b"Roe", b"Doe", b"PAT-4711-K"):
        assert identity not in everything


def test_an_archive_as_hospitals_have_it_is_scored_by_what_shows_each_exposure_once(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    root = tmp_path / "pacs"

    def put(path: str, pixels: np.ndarray, **elements: object) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(dicom(pixels, **{"BodyPartExamined": "HAND", "BitsStored": 12, **elements}))

    hand, other = phantom(), phantom()[::-1]
    put("once/a", hand, StudyInstanceUID="1.2.1")
    put("once/b", other, StudyInstanceUID="1.2.1")
    stream = imagecodecs.jpeg2k_encode(other, codecformat="j2k", reversible=True, bitspersample=12)
    for path, options in {
        "first/a": {"pixels": hand},
        "first/b": {"pixels": other},
        "second/b": {"pixels": other, "SeriesInstanceUID": "1.2.3.9"},
        "third/b": {"pixels": other, "stream": stream, "syntax": uid.JPEG2000Lossless},
        "raw": {"pixels": 4095 - hand, "SOPClassUID": uid.DigitalXRayImageStorageForProcessing},
    }.items():
        put(path, **options, StudyInstanceUID="1.2.2")
    put("alone", hand, SOPClassUID=uid.DigitalXRayImageStorageForProcessing, StudyInstanceUID="1.2.5")
    for patient in ("P1", "P2"):
        put(f"mixed/{patient}", hand, StudyInstanceUID="1.2.3", PatientID=patient)
    put("vessels", hand, SOPClassUID=uid.XRayAngiographicImageStorage, StudyInstanceUID="1.2.4", BodyPartExamined=None)
    put("windowed", hand, StudyInstanceUID="1.2.6", WindowCenter=127, WindowWidth=255)
    kept = {**environ, "BONESCREEN_KEEP": "modality,path"}
    done = run(kept, "screen", root)
    assert done.returncode == 0, done.stderr
    assert "images of several patients under one study, which has no score: 1.2.3" in done.stderr
    assert "out of scope: 1 image XA (not known to the model)" in done.stderr
    assert "1 image read although the file is wrong: bonescreen status 1" in done.stdout
    assert f"repaired 1 image: {Repair.WINDOW}" in " ".join(run(environ, "status").stdout.split())
    assert f"windowed: read all the same: {Repair.WINDOW}" in run(environ, "study", "1.2.6").stdout
    told = rows(kept)
    assert [told[f"1.2.{n}"]["status"] for n in (1, 2, 3, 4, 5)] == [
        "scored", "scored", "not assessable", "out of scope", "scored",
    ]  # fmt: skip
    assert told["1.2.1"]["score"] == told["1.2.2"]["score"] != ""
    assert (told["1.2.2"]["images"], told["1.2.2"]["path"]) == ("5", "first/a")
    assert told["1.2.4"]["modality"] == "XA"
    assert told["1.2.3"]["patients"] == "2"
    listed = csv.DictReader(io.StringIO(run(environ, "results", "--images", "--format", "csv").stdout))
    states = {row["image"]: row["state"] for row in listed if row["study"] == "1.2.2"}
    assert sorted(states.values()) == ["copy", "copy", "for processing", "scored", "scored"]
    assert states["raw"] == "for processing"
    mixed = " ".join(run(environ, "study", "1.2.3").stdout.split())
    assert "images of 2 patients, so it has no score" in mixed
    alone = " ".join(run(environ, "study", "1.2.5").stdout.split())
    assert "a raw image (FOR PROCESSING), scored as there is no finished one of its view" in alone


def test_a_dry_run_says_what_there_is_to_do_and_makes_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    root = tmp_path / "archive"
    flat_tree(root, 6)
    done = run(environ, "screen", "--dry-run", root)
    assert done.returncode == 0, done.stderr
    assert "to screen: 6 images (6 new)" in done.stdout
    assert not Path(environ["BONESCREEN_HOME"]).exists()
    assert run(environ, "screen", root).returncode == 0
    (root / "tonight.png").write_bytes(png(99))
    for command in ("screen", "enqueue"):
        told = run(environ, command, "--dry-run", root).stdout
        assert "to screen: 1 image (1 new)" in told
        assert "screened already: 6 images" in told
    assert len(rows(environ)) == 6


def test_a_dry_run_of_enqueue_refuses_an_archive_that_workers_could_not_find(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    root = tmp_path / "archive"
    flat_tree(root, 1)
    environ["BONESCREEN_DATABASE_URL"] = f"sqlite:///{tmp_path / 'mine.db'}"
    assert run(environ, "db", "upgrade").returncode == 0
    for arguments in (("enqueue", root), ("enqueue", "--dry-run", root)):
        done = run(environ, *arguments)
        assert done.returncode == 2
        assert "has no name by which workers find it" in done.stderr
    assert run(environ, "screen", "--dry-run", root).returncode == 0


def test_a_wrong_manifest_is_refused_by_its_lines_in_one_line(tmp_path: Path, environ: dict[str, str]) -> None:
    root = tmp_path / "archive"
    flat_tree(root, 1)
    (root / "manifest.csv").write_text("study,image,label\na,../x.png,\nb,y.png,perhaps\n")
    for arguments in (("screen", root), ("screen", "--dry-run", root)):
        done = run(environ, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: manifest.csv line 2: the image '../x.png' is not below")
        assert "line 3: the label 'perhaps'" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_file_that_is_being_written_is_not_assessable_until_the_next_scan_reads_it(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    root = tmp_path / "archive"
    flat_tree(root, 2)
    ended = threading.Event()

    def write() -> None:
        with (root / "arriving.png").open("wb", buffering=0) as file:
            while not ended.wait(0.05):
                file.write(b"\x89PNG")

    writer = threading.Thread(target=write)
    writer.start()
    done = run({**environ, "BONESCREEN_QUIET_SECONDS": "2"}, "screen", root)
    ended.set()
    writer.join()
    assert done.returncode == 0, done.stderr
    assert "arriving.png (still being written)" in done.stderr
    assert rows(environ)["arriving.png"]["status"] == "not assessable"
    (root / "arriving.png").write_bytes(png(77))
    assert run(environ, "screen", root).returncode == 0
    assert rows(environ)["arriving.png"]["status"] == "scored"


def test_a_folder_whose_path_is_written_in_the_other_unicode_form_is_the_same_archive(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    composed, decomposed = (tmp_path / normalize(form, "R\xf6ntgen") for form in ("NFC", "NFD"))
    flat_tree(decomposed, 2)
    assert run(environ, "enqueue", decomposed).returncode == 0
    decomposed.rename(composed)
    done = run(environ, "enqueue", composed)
    assert "Run 1 in" in done.stdout, done.stderr
    flat_tree(decomposed, 2)
    assert "Run 2 in" in run(environ, "enqueue", decomposed).stdout
