"""`bonescreen study` and `bonescreen heatmap`: one study, in detail."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from db import ledger
from db.merge import merge, stage
from db.runs import open_run, register_archive, register_model
from db.scans import begin_scan, close_scan
from db.store import ImageOutcome, Prediction
from tests.bonescreen.conftest import Bonescreen
from tests.ledgers import INCOMPLETE, NOT_ASSESSABLE, OUT_OF_SCOPE, POSITIVE, Unlike, embedded, screened
from tests.seeding import MODEL
from xray.archives.archive_file import ArchiveFile, Placement
from xray.network.package import ModelPackage
from xray.vocabulary import REASON_TEXT, RESEARCH_NOTICE, Label, Reason

STUDY = "XR_HAND/patient1/study1_positive"


def test_a_study_is_found_by_the_end_of_its_path(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("study", "patient1/study1_positive")
    assert POSITIVE in done.out
    assert "positive: fracture" in done.out
    assert "0.850 (mean probability of 2 images; positive at 0.500 or above)" in done.out
    assert RESEARCH_NOTICE in done.out


def test_a_study_is_found_by_the_path_of_its_folder_as_a_shell_completes_it(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    assert bonescreen("study", POSITIVE + "/") == bonescreen("study", POSITIVE)


def test_an_end_that_fits_several_studies_is_refused_with_the_keys(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("study", "study1_positive")
    assert done.code == 2
    assert POSITIVE in done.err
    assert NOT_ASSESSABLE in done.err


def test_an_incomplete_study_shows_its_failed_image_and_never_negative(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    out = bonescreen("study", INCOMPLETE).out
    assert "result       incomplete" in out
    assert f"image2.png: no prediction: {REASON_TEXT[Reason.TRUNCATED]}" in out
    (result,) = (line for line in out.splitlines() if line.startswith("  result"))
    assert "negative" not in result.replace(INCOMPLETE, "")


def test_an_image_out_of_scope_is_shown_with_the_reason_and_gets_no_heat_map(
    bonescreen: Bonescreen, home: Path, tmp_path: Path
) -> None:
    tooth = "XR_HAND/tooth/study1_positive"
    studies = {OUT_OF_SCOPE: [0.95], tooth: [Unlike(0.9, 7.5)]}
    screened(home, studies, model=replace(MODEL, distance_threshold=2.0))
    reason = "out of scope: unlike what the model has learnt from (distance 7.500, in scope up to 2.000)"
    shown = " ".join(bonescreen("study", tooth).out.split())
    assert "result out of scope" in shown
    assert f"image1.png: {reason}" in shown
    (held,) = json.loads(bonescreen("study", tooth, "--json").out)
    assert [(image["state"], image["distance"]) for image in held["images_held"]] == [("out of scope", 7.5)]
    part = " ".join(bonescreen("study", OUT_OF_SCOPE).out.split())
    assert "image1.png: out of scope: the model does not know this body part or modality" in part
    drawn = bonescreen("heatmap", tooth, "-o", tmp_path / "out")
    assert (drawn.code, drawn.out) == (0, "")
    assert f"{tooth}/image1.png: {reason}" in drawn.err


def test_scripts_get_a_study_in_every_run_with_its_images(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    screened(home, model=replace(MODEL, version="2", digest="cd" * 32))
    done = bonescreen("study", INCOMPLETE, "--json")
    held = json.loads(done.out)
    assert [(study["run"], study["model"]) for study in held] == [(2, "tiny 2"), (1, "tiny 1")]
    assert [(image["probability"], image["reason"]) for image in held[0]["images_held"]] == [
        (0.2, None),
        (None, "truncated"),
    ]
    assert RESEARCH_NOTICE in done.err
    assert [study["run"] for study in json.loads(bonescreen("study", INCOMPLETE, "--run", 1, "--json").out)] == [1]


@pytest.fixture
def clinic(tmp_path: Path, home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Screen an archive of two real images and one that was unreadable, with a real package."""
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny_package.path))
    root = tmp_path / "clinic"
    (root / STUDY).mkdir(parents=True)
    for number in (1, 2):
        Image.fromarray(np.full((60, 40), 50 * number, np.uint8)).save(root / STUDY / f"image{number}.png")
    (root / STUDY / "image3.png").touch()
    database = embedded(home)
    archive = register_archive(database, "clinic", str(root))
    model = replace(MODEL, digest=tiny_package.digest)
    run = open_run(database, archive, register_model(database, model), batch_size=8)
    scan = begin_scan(database, run, "mura", "test")
    assert scan is not None
    placement = Placement(STUDY, "HAND", Label.POSITIVE)
    stage(database, scan, [ArchiveFile(f"{STUDY}/image{n}.png", 1, 1, placement) for n in (1, 2, 3)])
    merge(database, scan, lambda path: None)
    close_scan(database, scan, {})
    claim = ledger.claim_next(database, model.queue, "worker")
    assert claim is not None
    outcomes = []
    for item in ledger.unprocessed_images(database, claim):
        data = (root / item.path).read_bytes()
        cam = np.array([[2, 0], [0, -2]], "<f2").tobytes()
        predicted = ImageOutcome(item.image_id, hashlib.sha256(data).digest(), Prediction(1.0, 0.7, cam, (2, 2)))
        outcomes.append(predicted if data else ImageOutcome(item.image_id, reason=Reason.EMPTY))
    assert ledger.finish(database, claim, outcomes)
    database.close()
    return root


def test_heat_maps_are_drawn_below_the_paths_of_their_images(
    bonescreen: Bonescreen, clinic: Path, tmp_path: Path
) -> None:
    done = bonescreen("heatmap", STUDY, "-o", tmp_path / "out")
    drawn = [tmp_path / "out" / STUDY / f"image{n}.png.heatmap.png" for n in (1, 2)]
    assert done.out.splitlines() == [str(path) for path in drawn]
    assert done.code == 0
    with Image.open(drawn[0]) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    assert f"image3.png: no prediction: {REASON_TEXT[Reason.EMPTY]}" in done.err
    assert RESEARCH_NOTICE in done.err


def test_only_their_owner_may_read_heat_maps_and_the_database_whatever_the_umask(
    bonescreen: Bonescreen, clinic: Path, home: Path, tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        embedded(tmp_path / "new").close()
        assert bonescreen("heatmap", STUDY, "-o", tmp_path / "out").code == 0
        (tmp_path / "out" / STUDY / "image1.png.heatmap.png").chmod(0o644)
        assert bonescreen("heatmap", STUDY, "-o", tmp_path / "out").code == 0
    finally:
        os.umask(before)
    made = [tmp_path / "out", *(tmp_path / "out").rglob("*"), *(tmp_path / "new").iterdir()]
    assert len(made) >= 6
    assert {(path.is_dir(), oct(path.stat().st_mode & 0o777)) for path in made} == {(True, "0o700"), (False, "0o600")}


def test_a_heat_map_takes_the_place_of_a_link_and_is_not_written_to_where_it_leads(
    bonescreen: Bonescreen, clinic: Path, home: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out" / STUDY / "image1.png.heatmap.png"
    target.parent.mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    target.symlink_to(tmp_path / "mine")
    assert bonescreen("heatmap", STUDY, "-o", tmp_path / "out").code == 0
    assert (tmp_path / "mine").read_text() == "mine"
    assert not target.is_symlink()
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_name_too_long_for_the_ending_is_cut_and_stays_one_of_its_own(
    bonescreen: Bonescreen, clinic: Path, home: Path, tmp_path: Path
) -> None:
    long = ["ü" * 125 + f"{n}.png" for n in (1, 2)]
    for number, name in enumerate(long, 1):
        (clinic / STUDY / f"image{number}.png").rename(clinic / STUDY / name)
    database = embedded(home)
    with database.write() as connection:
        for number, name in enumerate(long, 1):
            rename = text("UPDATE images SET path = :new WHERE path = :old")
            connection.execute(rename, {"new": f"{STUDY}/{name}", "old": f"{STUDY}/image{number}.png"})
    database.close()
    done = bonescreen("heatmap", STUDY, "-o", tmp_path / "out")
    drawn = [Path(line) for line in done.out.splitlines()]
    assert done.code == 0, done.err
    assert len(set(drawn)) == 2
    assert all(path.exists() and path.name.endswith(".heatmap.png") for path in drawn)


def test_a_picture_that_cannot_be_written_is_named_and_the_others_are_drawn(
    bonescreen: Bonescreen, clinic: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / STUDY / "image1.png.heatmap.png").mkdir(parents=True)
    done = bonescreen("heatmap", STUDY, "-o", tmp_path / "out")
    assert done.code == 1
    assert "image1.png.heatmap.png cannot be written: Is a directory" in done.err
    assert [Path(line).name for line in done.out.splitlines()] == ["image2.png.heatmap.png"]


def test_a_link_to_itself_is_no_folder_to_draw_in(bonescreen: Bonescreen, clinic: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    done = bonescreen("heatmap", STUDY, "-o", tmp_path / "loop")
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path / 'loop'} is not a folder; choose a different one" in done.err


def test_drawing_again_replaces_the_pictures(bonescreen: Bonescreen, clinic: Path, tmp_path: Path) -> None:
    first = bonescreen("heatmap", STUDY, "-o", tmp_path / "out")
    assert bonescreen("heatmap", "patient1/study1_positive/", "-o", tmp_path / "out") == first


def test_a_file_that_has_changed_is_not_drawn_under_the_old_map_and_the_others_are(
    bonescreen: Bonescreen, clinic: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(clinic / STUDY / "image1.png")
    done = bonescreen("heatmap", STUDY, "-o", tmp_path / "out")
    assert done.code == 1
    assert "image1.png: the file has changed since it was screened" in done.err
    assert [Path(line).name for line in done.out.splitlines()] == ["image2.png.heatmap.png"]


def test_a_file_that_is_gone_is_said_to_be(bonescreen: Bonescreen, clinic: Path, tmp_path: Path) -> None:
    (clinic / STUDY / "image1.png").unlink()
    done = bonescreen("heatmap", STUDY, "-o", tmp_path / "out")
    assert done.code == 1
    assert REASON_TEXT[Reason.VANISHED] in done.err


def test_pictures_are_not_put_where_the_next_scan_would_screen_them(bonescreen: Bonescreen, clinic: Path) -> None:
    done = bonescreen("heatmap", STUDY, "-o", clinic / "heatmaps")
    assert done.code == 2
    assert "would take the pictures for radiographs" in done.err
    assert not (clinic / "heatmaps").exists()


def test_heat_maps_need_the_package_that_made_them(
    bonescreen: Bonescreen, clinic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_MODEL", "nowhere/else")
    done = bonescreen("heatmap", STUDY, "-o", tmp_path / "out")
    assert done.code == 2
    assert "is not installed here" in done.err
    assert not (tmp_path / "out").exists()


def test_a_study_that_two_archives_hold_is_asked_for_by_run(
    bonescreen: Bonescreen, clinic: Path, home: Path, tmp_path: Path
) -> None:
    screened(home, {STUDY: [0.5]}, archive="copy")
    done = bonescreen("heatmap", STUDY, "-o", tmp_path / "out")
    assert done.code == 2
    assert "--run 1 (clinic), --run 2 (copy)" in done.err
    assert bonescreen("heatmap", STUDY, "-o", tmp_path / "out", "--run", 1).code == 0
