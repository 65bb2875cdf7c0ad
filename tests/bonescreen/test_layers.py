"""`bonescreen layers`: one page of what a network sees."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bonescreen.conftest import Bonescreen
from training.explain.grad_cam import distinct_names
from xray.network.package import ModelPackage
from xray.vocabulary import RESEARCH_NOTICE


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """Three films, one with a name that is HTML."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / name for name in ("a.png", "<b>Doe.png", "c.png")]
    for path, shape in zip(paths, ((90, 60), (60, 90), (64, 64)), strict=True):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path)
    return paths


def test_the_layers_that_can_be_looked_at_are_listed(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage
) -> None:
    done = bonescreen("layers", tiny_package.path, "--list")
    assert done.code == 0
    starred = [line.split()[1:] for line in done.out.splitlines() if line.startswith("*")]
    assert starred[0] == ["conv_pw_1_relu", "activation", "32", "x", "32", "64"]
    assert starred[-1][:3] == ["conv_pw_13_relu", "feature", "map"]
    assert "conv_dw_5 " in done.out


def test_films_are_drawn_at_the_layers_named_and_one_that_cannot_be_read_does_not_keep_the_others_from_it(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, films: list[Path], tmp_path: Path
) -> None:
    films[2].write_bytes(films[2].read_bytes()[:200])
    out = tmp_path / "seen"
    done = bonescreen(
        "layers", tiny_package.path, *films, tmp_path / "gone.png", "-o", out, "--layer", "conv_pw_3_relu",
        "--layer", "conv_pw_13_relu", "--channels", 9,
    )  # fmt: skip
    assert done.code == 1
    assert done.out.strip() == str(out / "layers.html")
    assert f"{films[2]}: the file ends before the image does" in done.err
    assert "gone.png: there is no such file" in done.err
    page, numbers = (out / "layers.html").read_text(), json.loads((out / "layers.json").read_text())
    assert "<b>Doe" not in page
    assert "&lt;b&gt;Doe.png" in page
    assert RESEARCH_NOTICE in page
    assert numbers["notice"] == RESEARCH_NOTICE
    assert "http" not in page
    assert [film["image"] for film in numbers["films"]] == ["a.png", "<b>Doe.png"]
    assert numbers["unread"].keys() == {"c.png", "gone.png"}
    for film in numbers["films"]:
        assert [layer["layer"] for layer in film["layers"]] == ["conv_pw_3_relu", "conv_pw_13_relu"]
        for layer in film["layers"]:
            assert len(layer["channels"]) == 9
            assert np.asarray(Image.open(out / layer["picture"])).std() > 10


def test_films_of_one_name_are_told_apart_by_their_folders(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, films: list[Path], tmp_path: Path
) -> None:
    studies = [tmp_path / f"patient{number}" / "study1_positive" for number in range(4)]
    for study, film in zip(studies, [*films, films[0]], strict=True):
        study.mkdir(parents=True)
        (study / "image1.png").write_bytes(film.read_bytes())
    for number in (2, 3):
        (studies[number] / "image1.png").write_bytes(b"nothing")
    images = [study / "image1.png" for study in studies]
    done = bonescreen(
        "layers", tiny_package.path, *images, images[0], films[2], "-o", tmp_path / "seen", "--layer", "conv_pw_13_relu"
    )
    assert done.code == 1
    names = [f"patient{number}/study1_positive/image1.png" for number in range(4)]
    numbers = json.loads((tmp_path / "seen" / "layers.json").read_text())
    assert [film["image"] for film in numbers["films"]] == [*names[:2], "c.png"]
    assert set(numbers["unread"]) == set(names[2:])
    page = (tmp_path / "seen" / "layers.html").read_text()
    assert all(name in page for name in names)
    pictures = [film["layers"][0]["picture"] for film in numbers["films"]]
    assert pictures[0] == "001-patient0_study1_positive_image1.png.conv_pw_13_relu.png"
    assert all((tmp_path / "seen" / picture).is_file() for picture in pictures)


def test_the_shortest_end_of_a_path_that_no_other_has_is_its_name() -> None:
    paths = [Path(path) for path in ("a.png", "x/a.png", "y/x/a.png", "/z/b.png", "c\n.png")]
    assert distinct_names(paths) == ["a.png", "x/a.png", "y/x/a.png", "b.png", "c\\n.png"]


def test_the_map_is_checked_on_request(
    bonescreen: Bonescreen,
    home: Path,
    tiny_package: ModelPackage,
    films: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BONESCREEN_ENGINE", "openvino")
    done = bonescreen("layers", tiny_package.path, *films, "-o", tmp_path / "seen", "--check")
    assert done.code == 0
    check = json.loads((tmp_path / "seen" / "layers.json").read_text())["check"]
    assert [stage["randomised_down_to"] for stage in check["randomised"]["stages"]][:2] == ["head", "2 x 2"]
    assert "it is only a hint" in check["randomised"]["verdict"]
    assert len(check["deletion_insertion"]["films"]) == 3
    page = (tmp_path / "seen" / "layers.html").read_text()
    assert check["deletion_insertion"]["verdict"].replace("'", "&#39;") in page


def test_what_cannot_be_done_is_said_in_a_line(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, films: list[Path], tmp_path: Path
) -> None:
    for arguments, said in (
        ((), "IMAGE... -o DIR; or --list"),
        ((films[0],), "IMAGE... -o DIR; or --list"),
        ((films[0], "-o", tmp_path / "seen", "--layer", "conv_pw_3_rel"), "near it: conv_pw_3_relu"),
        ((tmp_path / "gone.png", "-o", tmp_path / "seen"), "none of the 1 images can be read"),
    ):
        done = bonescreen("layers", tiny_package.path, *arguments)
        assert done.code == 2
        assert said in done.err.splitlines()[-1]
    assert not (tmp_path / "seen").exists()
