"""`bonescreen evaluate`: a real model, real files, and the page as a browser shows it."""

import csv
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sklearn_metrics

from tests.awaiting import PATIENCE
from tests.bonescreen.conftest import Bonescreen
from training.data.split import SPLIT_FILE
from training.evaluate.predictions import Predictions
from xray.network.package import CARD_FILE, GOLDEN_FILE, ModelPackage, file_sha256
from xray.vocabulary import RESEARCH_NOTICE

HEADER = ("study", "image", "label", "body_part", "patient")
MARK = "<b>bold</b>"


@pytest.fixture(scope="session")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 24 studies of two images, of 12 patients; six images are of a toe, one is truncated, one has markup."""
    folder = tmp_path_factory.mktemp("radiographs")
    rng = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for study in range(24):
            for view in range(2):
                gray = rng.integers(0, 256, (8, 6), np.uint8).repeat(8, 0).repeat(8, 1)
                name = f"{study}-{view}{MARK.replace('/', '') if study == 3 else ''}.png"
                Image.fromarray(gray).save(folder / name)
                label = "positive" if study % 2 else "negative"
                part = "TOE" if study >= 21 else ("HAND", "WRIST")[study % 3 == 0]
                writer.writerow([f"study{study}", name, label, part, f"patient{study // 2}"])
    cut = folder / "5-0.png"
    cut.write_bytes(cut.read_bytes()[:60])
    return folder


@pytest.fixture
def graphs(home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests of this file share a home, so that the OpenVINO graph is converted once."""
    monkeypatch.setenv("BONESCREEN_HOME", str(tmp_path_factory.getbasetemp() / "evaluate-home"))


def with_split(package: ModelPackage, folder: Path, roles: dict[str, str]) -> Path:
    shutil.copytree(package.path, folder)
    (folder / SPLIT_FILE).write_text("group,role\n" + "".join(f"{group},{role}\n" for group, role in roles.items()))
    files = {**package.card.files, SPLIT_FILE: file_sha256(folder / SPLIT_FILE)}
    (folder / CARD_FILE).write_text(replace(package.card, files=files).to_json())
    return folder


def dom(page: Path, home: Path) -> str:
    """Return the page as a real browser has built it."""
    browser = shutil.which("chromium")
    if browser is None:
        # CI installs it where it sets this variable.
        reason = "no browser here: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("BONESCREEN_TEST_DEBIAN") else pytest.skip(reason)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={home}", "--dump-dom"]
    command, seconds = [browser, *options, page.as_uri()], 90 * PATIENCE
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True).stdout


def test_metrics_agree_with_scikit_learn_and_are_on_the_page(
    bonescreen: Bonescreen, graphs: None, tiny_package: ModelPackage, radiographs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--aim", "sensitivity:0.95", "--against", tiny_package.path, "--engine", "openvino")
    done = bonescreen("evaluate", tiny_package.path, "--data", radiographs, "-o", out, *options)
    assert done.code == 0, done.err
    assert RESEARCH_NOTICE in done.err
    assert "6 images of TOE" in done.out

    report = json.loads((out / "report.json").read_text())
    rows = Predictions.read(out / "predictions.csv")
    assert (report["data"]["listed"], report["data"]["measured"], report["data"]["unreadable"]) == (
        48, 47, {"truncated": 1},
    )  # fmt: skip
    inside = rows.select(rows.body_parts != "TOE")
    for level, table in (("images", inside), ("studies", inside.by_study())):
        found = report["evaluation"][level]["populations"][0]
        assert found["auroc"]["value"] == pytest.approx(
            sklearn_metrics.roc_auc_score(table.labels, table.probabilities), abs=1e-9
        )
        kappa = sklearn_metrics.cohen_kappa_score(table.labels, table.probabilities >= 0.5)
        assert found["at"][0]["kappa"]["value"] == pytest.approx(kappa, abs=1e-9)
        assert found["at"][1]["sensitivity"]["value"] >= 0.95
    assert {d["p"] for d in report["comparison"]["images"] + report["comparison"]["studies"]} == {1.0}
    assert report["notice"] == RESEARCH_NOTICE

    page = dom(out / "report.html", tmp_path / "browser")
    for text in (
        RESEARCH_NOTICE, "Whether the model was trained on these images is not known.", "WRIST", "Out of scope",
        "chosen on the same data are too optimistic", "Of 1,000 studies like these",
        "the file ends before the image does", "Compared with tiny 1",
    ):  # fmt: skip
        assert text in page, text
    for number in ("value", "low", "high"):
        assert f"{found['auroc'][number]:.3f}" in page
    assert page.count("<table") == 8
    assert MARK.replace("/", "") not in page
    assert "://" not in page


def test_maps_are_measured_and_drawn_where_the_data_say_where_the_findings_lie(
    bonescreen: Bonescreen, graphs: None, tiny_package: ModelPackage, radiographs: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(radiographs, folder)
    marked = {study: f"{study}-0.png" for study in (1, 5, 7, 9, 11, 13, 15, 17, 19, 21)}
    images = [{"id": id, "file_name": name, "width": 48, "height": 64} for id, name in marked.items()]
    # The whole image in every other one, which no map can miss.
    boxes = {id: [40, 50, 8, 14] if at % 2 else [0, 0, 48, 64] for at, id in enumerate(marked)}
    annotations = [{"image_id": id, "bbox": box, "category_id": 1, "segmentation": []} for id, box in boxes.items()]
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fracture"}]}
    (folder / "annotations.json").write_text(json.dumps(coco))
    command = ("evaluate", tiny_package.path, "-o", out, "--engine", "openvino", "--data")
    done = bonescreen(*command, folder)
    assert done.code == 0, done.err
    # One of the ten is truncated, and one of a toe, out of scope.
    everyone = json.loads((out / "report.json").read_text())["pointing"][0]
    assert (everyone["n"], everyone["groups"]) == (8, 8)
    assert everyone["game"]["value"] >= 5 / 8
    assert 5 / 8 < everyone["game_by_chance"] < 5 / 8 + 0.1
    assert f"{everyone['game']['value']:.3f}" in done.out
    assert "maps.html" in done.out
    page = dom(out / "maps.html", tmp_path / "browser")
    assert page.count("<figure>") == page.count("data:image/jpeg") == 8
    assert page.count("<strong>hit</strong>") == round(8 * everyone["game"]["value"])
    assert "Whether the model was trained on these images is not known." in page
    assert "Where the map points" in (out / "report.html").read_text()

    assert bonescreen(*command, radiographs).code == 0
    assert json.loads((out / "report.json").read_text())["pointing"] == []
    assert not (out / "maps.html").exists()


def test_only_the_test_part_of_the_packages_split_is_measured(
    bonescreen: Bonescreen, graphs: None, tiny_package: ModelPackage, radiographs: Path, tmp_path: Path
) -> None:
    from training.data.read_dataset import read_dataset

    groups = sorted(set(read_dataset(radiographs).groups.tolist()))
    package = with_split(
        tiny_package, tmp_path / "split", {group: ("train", "test")[i % 2] for i, group in enumerate(groups)}
    )
    done = bonescreen(
        "evaluate", package, "--data", radiographs, "-o", tmp_path / "out", "--json", "--engine", "openvino"
    )
    report = json.loads(done.out)
    assert (report["data"]["part"], report["leakage"]["verdict"]) == ("test", "held out")
    assert report["data"]["listed"] == 24
    assert "WARNING" not in done.err

    options = ("--part", "all", "--against", tmp_path / "out" / "predictions.csv", "--engine", "openvino")
    done = bonescreen("evaluate", package, "--data", radiographs, "-o", tmp_path / "all", *options)
    assert (done.code, "not of the same images" in done.err) == (2, True)
    assert "Predicting" not in done.err
    assert not (tmp_path / "all" / "predictions.csv").exists()

    options = ("--part", "train", *options[2:])
    done = bonescreen("evaluate", package, "--data", radiographs, "-o", tmp_path / "train", *options)
    assert (done.code, "not of the same images" in done.err) == (2, True)
    assert not (tmp_path / "train").exists()

    done = bonescreen(
        "evaluate", package, "--data", radiographs, "-o", tmp_path / "all", "--part", "all", "--engine", "openvino"
    )
    assert "WARNING: The model was trained on" in done.err


def test_an_earlier_evaluation_can_be_the_baseline(
    bonescreen: Bonescreen, graphs: None, tiny_package: ModelPackage, radiographs: Path, tmp_path: Path
) -> None:
    first = ("evaluate", tiny_package.path, "--data", radiographs, "--engine", "openvino", "--body-part", "HAND")
    assert bonescreen(*first, "-o", tmp_path / "one").code == 0
    table = tmp_path / "one" / "predictions.csv"
    found = json.loads(bonescreen(*first, "-o", tmp_path / "two", "--against", table, "--json").out)["comparison"]
    assert (found["name"], {d["p"] for d in found["images"]}, len(found["images"])) == ("tiny 1", {1.0}, 6)
    (tmp_path / "one" / "report.json").unlink()
    found = json.loads(bonescreen(*first, "-o", tmp_path / "two", "--against", table, "--json").out)["comparison"]
    assert [d["measure"] for d in found["images"]] == ["auroc", "average_precision"]


def test_a_baseline_that_was_trained_on_the_images_is_recognised_by_its_package_and_by_its_table(
    bonescreen: Bonescreen, graphs: None, tiny_package: ModelPackage, radiographs: Path, tmp_path: Path
) -> None:
    from training.data.read_dataset import read_dataset

    roles = dict.fromkeys(read_dataset(radiographs).groups.tolist(), "train")
    trained = with_split(tiny_package, tmp_path / "trained", roles)
    data = ("--data", radiographs, "--engine", "openvino", "--body-part", "HAND", "-o")
    digests = [
        json.loads(bonescreen("models", "show", each, "--json").out)["digest"][:12]
        for each in (tiny_package.path, trained)
    ]
    assert bonescreen("evaluate", trained, *data, tmp_path / "table").code == 0
    for baseline in (trained, tmp_path / "table" / "predictions.csv"):
        done = bonescreen("evaluate", tiny_package.path, *data, tmp_path / "out", "--against", baseline)
        (warning,) = [line for line in done.err.splitlines() if line.startswith("WARNING")]
        assert warning.startswith(f"WARNING: tiny 1 ({digests[1]}): The model was trained on")
        assert f"tiny 1 ({digests[0]}) minus tiny 1 ({digests[1]})" in done.out
        assert "images AUROC +0.000 no interval 1.000" in " ".join(done.out.split())


def test_images_that_screening_would_leave_out_as_unlike_the_training_images_are_counted_and_said(
    bonescreen: Bonescreen, graphs: None, tiny_package: ModelPackage, radiographs: Path, tmp_path: Path
) -> None:
    narrow = tmp_path / "narrow"
    shutil.copytree(tiny_package.path, narrow)
    assert tiny_package.card.distance is not None
    card = replace(tiny_package.card, distance=replace(tiny_package.card.distance, threshold=1e-9))
    (narrow / CARD_FILE).write_text(card.to_json())
    command = ("--data", radiographs, "-o", tmp_path / "out", "--engine", "openvino", "--body-part", "HAND")
    assert "what the model has learnt from" not in bonescreen("evaluate", tiny_package.path, *command).err
    done = bonescreen("evaluate", narrow, *command)
    assert re.search(
        r"(\d+) of \1 images are unlike what the model has learnt from: screening leaves them out", done.err
    )


def test_predictions_are_saved_before_a_baseline_that_fails(
    bonescreen: Bonescreen, graphs: None, tiny_package: ModelPackage, radiographs: Path, tmp_path: Path
) -> None:
    broken, out = tmp_path / "broken", tmp_path / "out"
    shutil.copytree(tiny_package.path, broken)
    with np.load(broken / GOLDEN_FILE) as held:
        arrays = dict(held)
    np.savez(broken / GOLDEN_FILE, **{**arrays, "logits": arrays["logits"] + 1})
    files = {**tiny_package.card.files, GOLDEN_FILE: file_sha256(broken / GOLDEN_FILE)}
    (broken / CARD_FILE).write_text(replace(tiny_package.card, files=files).to_json())
    out.mkdir()
    (out / "report.json").write_text("of another model")
    done = bonescreen(
        "evaluate", tiny_package.path, "--data", radiographs, "-o", out, "--engine", "openvino", "--against", broken
    )
    assert (done.code, "golden" in done.err) == (2, True)
    assert len(Predictions.read(out / "predictions.csv")) == 47
    assert not (out / "report.json").exists()


def test_a_folder_that_cannot_be_made_is_an_error_before_any_image_is_read(
    bonescreen: Bonescreen, graphs: None, tiny_package: ModelPackage, radiographs: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = bonescreen("evaluate", tiny_package.path, "--data", radiographs, "-o", tmp_path / "file" / "out")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"error: cannot write to the folder {tmp_path / 'file' / 'out'}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--aim", "best"), "no aim 'best'"),
        (("--part", "half"), "must be one of test, validation, train, all, not 'half'"),
        (("--part", "test"), "leave out --part"),
        (("--engine", "abacus"), "must be one of auto, openvino, keras, not 'abacus'"),
        (("--body-part", "SKULL"), "has no images of SKULL"),
        (("--body-part", "TOE"), "6 images, none in scope: tiny knows ELBOW"),
        (("--groups", "nowhere.csv"), "nowhere.csv cannot be read"),
        (("--against", "nobody"), "no model package named 'nobody'"),
    ],
)
def test_a_wrong_option_is_an_error_in_one_line(
    bonescreen: Bonescreen,
    graphs: None,
    tiny_package: ModelPackage,
    radiographs: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    done = bonescreen(
        "evaluate", tiny_package.path, "--data", radiographs, "-o", tmp_path / "out", "--engine", "openvino", *options
    )
    error = done.err.splitlines()[-1]
    assert (done.code, error.startswith("error: ")) == (2, True)
    assert message in error
