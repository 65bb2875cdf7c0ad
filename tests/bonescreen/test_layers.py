"""`bonescreen layers`: one page that explains a network's predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bonescreen.conftest import Bonescreen
from tests.tiny import write_tiny_package
from training.explain.drawing import GAP, LABEL, overlay
from training.explain.input_images import read_input_image
from xray.images.preprocessing import Preprocessing
from xray.network.builder import load_network
from xray.network.package import ModelPackage
from xray.vocabulary import RESEARCH_NOTICE


@pytest.fixture
def radiographs(tmp_path: Path) -> list[Path]:
    """Write three radiographs, one with a name that is HTML."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / name for name in ("a.png", "<b>Doe.png", "c.png")]
    for path, shape in zip(paths, ((90, 60), (60, 90), (64, 64)), strict=True):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path)
    return paths


def test_the_layers_that_can_be_drawn_are_listed(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage
) -> None:
    done = bonescreen("layers", tiny_package.path, "--list")
    assert done.code == 0
    starred = [line.split()[1:] for line in done.out.splitlines() if line.startswith("*")]
    assert starred[0] == ["conv_pw_1_relu", "activation", "32", "x", "32", "64"]
    assert starred[-1][:3] == ["conv_pw_13_relu", "feature", "map"]
    assert "conv_dw_5 " in done.out


def test_images_are_drawn_at_the_given_layers_and_an_unreadable_one_does_not_stop_the_others(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, radiographs: list[Path], tmp_path: Path
) -> None:
    radiographs[2].write_bytes(radiographs[2].read_bytes()[:200])
    out = tmp_path / "explained"
    done = bonescreen(
        "layers", tiny_package.path, *radiographs, tmp_path / "gone.png", "-o", out, "--layer", "conv_pw_3_relu",
        "--layer", "conv_pw_13_relu", "--channels", 9,
    )  # fmt: skip
    assert done.code == 1
    assert done.out.strip() == str(out / "layers.html")
    assert f"{radiographs[2]}: the file ends before the image does" in done.err
    assert "gone.png: there is no such file" in done.err
    page, numbers = (out / "layers.html").read_text(), json.loads((out / "layers.json").read_text())
    assert "<b>Doe" not in page
    assert "&lt;b&gt;Doe.png" in page
    assert RESEARCH_NOTICE in page
    assert numbers["notice"] == RESEARCH_NOTICE
    assert "://" not in page
    assert [image["image"] for image in numbers["images"]] == ["a.png", "<b>Doe.png"]
    assert numbers["unreadable"].keys() == {"c.png", "gone.png"}
    for image in numbers["images"]:
        assert [layer["layer"] for layer in image["layers"]] == ["conv_pw_3_relu", "conv_pw_13_relu"]
        for layer in image["layers"]:
            assert len(layer["channels"]) == 9
            assert np.asarray(Image.open(out / layer["picture"])).std() > 10


def test_images_of_one_name_are_distinguished_by_their_folders(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, radiographs: list[Path], tmp_path: Path
) -> None:
    studies = [tmp_path / f"patient{number}" / "study1_positive" for number in range(4)]
    for study, radiograph in zip(studies, [*radiographs, radiographs[0]], strict=True):
        study.mkdir(parents=True)
        (study / "image1.png").write_bytes(radiograph.read_bytes())
    for number in (2, 3):
        (studies[number] / "image1.png").write_bytes(b"nothing")
    images = [study / "image1.png" for study in studies]
    done = bonescreen(
        "layers",
        tiny_package.path,
        *images,
        images[0],
        radiographs[2],
        "-o",
        tmp_path / "explained",
        "--layer",
        "conv_pw_13_relu",
    )
    assert done.code == 1
    names = [f"patient{number}/study1_positive/image1.png" for number in range(4)]
    numbers = json.loads((tmp_path / "explained" / "layers.json").read_text())
    assert [image["image"] for image in numbers["images"]] == [*names[:2], "c.png"]
    assert set(numbers["unreadable"]) == set(names[2:])
    page = (tmp_path / "explained" / "layers.html").read_text()
    assert all(name in page for name in names)
    pictures = [image["layers"][0]["picture"] for image in numbers["images"]]
    assert pictures[0] == "001-patient0_study1_positive_image1.png.conv_pw_13_relu.png"
    assert all((tmp_path / "explained" / picture).is_file() for picture in pictures)


def test_the_models_own_map_is_drawn_first_with_the_cells_of_a_finer_map(
    bonescreen: Bonescreen, home: Path, radiographs: list[Path], tmp_path: Path
) -> None:
    package = write_tiny_package(tmp_path / "finer", finer_map=True)
    out = tmp_path / "explained"
    listed = bonescreen("layers", package.path, "--list")
    assert "first the model's own map of 4 x 4 cells" in listed.err
    done = bonescreen("layers", package.path, *radiographs[:2], "-o", out, "--layer", "conv_pw_13_relu")
    assert done.code == 0
    preprocessing = Preprocessing.from_id(package.card.preprocessing)
    squares = [read_input_image(path, "", preprocessing) for path in radiographs[:2]]
    cams = np.asarray(load_network(package)(np.stack([each.square for each in squares]), training=False)[1])
    numbers = json.loads((out / "layers.json").read_text())
    for image, square, cam in zip(numbers["images"], squares, cams, strict=True):
        own = image["map"]
        assert own["shape"] == [4, 4]
        assert own["greatest"] == pytest.approx(cam.max(), rel=1e-3)
        assert own["scale"] == package.card.heat_map_scale
        drawn = np.asarray(Image.open(out / own["picture"]).convert("RGB"))
        heat = overlay(square, cam, package.card.heat_map_scale, preprocessing)
        top, left = GAP + LABEL, 2 * GAP + square.gray.shape[1]
        heat_map = drawn[top : top + heat.shape[0], left : left + heat.shape[1]]
        assert np.abs(heat_map.astype(int) - heat).max() <= 2
        assert np.abs(heat - square.gray[..., None].astype(int)).max() > 20
    page = (out / "layers.html").read_text()
    assert page.index("The model&#39;s map, 4 x 4 cells") < page.index("conv_pw_13_relu, feature map, 2 x 2")


def test_the_map_is_checked_on_request(
    bonescreen: Bonescreen,
    home: Path,
    tiny_package: ModelPackage,
    radiographs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BONESCREEN_ENGINE", "openvino")
    done = bonescreen("layers", tiny_package.path, *radiographs, "-o", tmp_path / "explained", "--check")
    assert done.code == 0
    check = json.loads((tmp_path / "explained" / "layers.json").read_text())["check"]
    assert [stage["randomised_down_to"] for stage in check["randomised"]["stages"]][:2] == ["head", "2 x 2"]
    assert "this is only a hint" in check["randomised"]["conclusion"]
    assert len(check["deletion_insertion"]["images"]) == 3
    page = (tmp_path / "explained" / "layers.html").read_text()
    assert check["deletion_insertion"]["conclusion"].replace("'", "&#39;") in page


def test_wrong_arguments_are_an_error_in_one_line(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, radiographs: list[Path], tmp_path: Path
) -> None:
    for arguments, message in (
        ((), "IMAGE... -o DIR; or --list"),
        ((radiographs[0],), "IMAGE... -o DIR; or --list"),
        ((radiographs[0], "-o", tmp_path / "explained", "--layer", "conv_pw_3_rel"), "similar names: conv_pw_3_relu"),
        ((tmp_path / "gone.png", "-o", tmp_path / "explained"), "none of the files can be read"),
    ):
        done = bonescreen("layers", tiny_package.path, *arguments)
        assert done.code == 2
        assert message in done.err.splitlines()[-1]
    assert not (tmp_path / "explained").exists()
