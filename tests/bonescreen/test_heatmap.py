"""`bonescreen heatmap` for several studies, for all flagged ones, and on a picture's own scale."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bonescreen.conftest import Bonescreen
from tests.pictured import pictured
from xray.network.heatmap import DARK
from xray.network.package import ModelPackage, load_package
from xray.vocabulary import RESEARCH_NOTICE

HIGH, MIDDLE, LOW = (f"XR_HAND/patient{n}/study1_positive" for n in (1, 2, 3))
STUDIES = {LOW: [0.1], MIDDLE: [0.6], HIGH: [0.9, 0.8]}


@pytest.fixture
def root(tmp_path: Path, home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny_package.path))
    pictured(home, tmp_path / "clinic", tiny_package, STUDIES)
    return tmp_path / "clinic"


def _drawn(folder: Path) -> list[str]:
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.heatmap.png"))


def test_several_studies_are_drawn_each_once(bonescreen: Bonescreen, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bonescreen("heatmap", HIGH, "patient3/study1_positive", LOW + "/", "-o", out)
    assert (done.code, _drawn(out)) == (0, [HIGH, HIGH, LOW])
    assert len(done.out.splitlines()) == 3
    assert RESEARCH_NOTICE in done.err


def test_a_wrong_name_among_several_is_said_before_anything_is_drawn(
    bonescreen: Bonescreen, root: Path, tmp_path: Path
) -> None:
    done = bonescreen("heatmap", HIGH, "patient9", "-o", tmp_path / "out")
    assert done.code == 2
    assert "no study 'patient9'" in done.err
    assert not (tmp_path / "out").exists()


def test_flagged_studies_are_drawn_the_highest_score_first(bonescreen: Bonescreen, root: Path, tmp_path: Path) -> None:
    done = bonescreen("heatmap", "--flagged", "-o", tmp_path / "all")
    assert (done.code, _drawn(tmp_path / "all")) == (0, [HIGH, HIGH, MIDDLE])
    done = bonescreen("heatmap", "--flagged", "--limit", 1, "--run", 1, "-o", tmp_path / "first")
    assert (done.code, _drawn(tmp_path / "first")) == (0, [HIGH, HIGH])


def test_a_folder_that_is_a_file_is_said_once_before_anything_is_drawn(
    bonescreen: Bonescreen, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for output, wrong in (("file", "file"), ("file/below/it", "file"), ("link", "link")):
        done = bonescreen("heatmap", "--flagged", "-o", tmp_path / output)
        assert (done.code, done.out) == (2, "")
        assert done.err == f"error: {tmp_path / wrong} is not a folder; choose a different one\n"


def test_a_run_without_flagged_studies_says_so(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, tiny_package: ModelPackage
) -> None:
    pictured(home, tmp_path / "clinic", tiny_package, {LOW: [0.1]})
    done = bonescreen("heatmap", "--flagged", "-o", tmp_path / "out")
    assert (done.code, done.out) == (0, "")
    assert "No study is flagged." in done.err


def test_what_cannot_be_drawn_is_named_and_the_other_studies_are_drawn(
    bonescreen: Bonescreen, root: Path, tmp_path: Path
) -> None:
    (root / HIGH / "image2.png").unlink()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / MIDDLE / "image1.png")
    done = bonescreen("heatmap", HIGH, MIDDLE, LOW, "-o", tmp_path / "out")
    assert (done.code, _drawn(tmp_path / "out")) == (1, [HIGH, LOW])
    assert f"{HIGH}/image2.png: cannot be read any more" in done.err
    assert f"{MIDDLE}/image1.png: the file has changed since it was screened" in done.err


def test_flagged_studies_of_two_archives_are_asked_for_by_run(
    bonescreen: Bonescreen, home: Path, root: Path, tmp_path: Path, tiny_package: ModelPackage
) -> None:
    pictured(home, tmp_path / "other", tiny_package, {HIGH + "x": [0.9]}, archive="other")
    done = bonescreen("heatmap", "--flagged", "-o", tmp_path / "out")
    assert done.code == 2
    assert "--run 2 (other), --run 1 (clinic)" in done.err
    done = bonescreen("heatmap", HIGH, HIGH + "x", "-o", tmp_path / "out")
    assert done.code == 2
    assert "more than one archive (clinic, other)" in done.err
    assert bonescreen("heatmap", "--flagged", "--run", 2, "-o", tmp_path / "out").code == 0
    assert _drawn(tmp_path / "out") == [HIGH + "x"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "STUDY is missing; name studies, or draw all flagged ones with --flagged"),
        (["--flagged", HIGH], "--flagged draws all flagged studies; leave it out to draw the studies that you name"),
        ([HIGH, "--limit", "3"], "--limit is for --flagged"),
    ],
)
def test_what_to_draw_is_said_in_one_way(
    bonescreen: Bonescreen, root: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = bonescreen("heatmap", *arguments, "-o", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def _picture(bonescreen: Bonescreen, out: Path, *options: str) -> np.ndarray:
    done = bonescreen("heatmap", HIGH, "-o", out, *options)
    assert done.code == 0, done.err
    with Image.open(out / HIGH / "image1.png.heatmap.png") as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_positive_image_with_a_dark_map_says_so_and_its_own_scale_shows_more(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny_package.path))
    scale = load_package(str(tiny_package.path)).card.heat_map_scale
    pictures = {}
    for name, share in (("dark", 0.5 * DARK), ("bright", 2 * DARK)):
        monkeypatch.setenv("BONESCREEN_HOME", str(tmp_path / name))
        highest = share * scale
        pictured(tmp_path / name, tmp_path / name / "clinic", tiny_package, STUDIES, cam=((highest, 0.0), (0.0, 0.0)))
        for options in ((), ("--own-scale",)):
            pictures[name, len(options)] = _picture(bonescreen, tmp_path / f"{name}{len(options)}", *options)
    # The caption of the dark one is longer.
    assert pictures["dark", 0].shape[0] > pictures["bright", 0].shape[0]
    colours = {which: np.ptp(picture[:640, 420:820], axis=2).max() for which, picture in pictures.items()}
    assert colours["dark", 0] < colours["bright", 0] < colours["bright", 1]
    assert colours["dark", 1] == colours["bright", 1]
