"""The Python API: the numbers of `bonescreen screen`, from Python."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pandas import DataFrame
from PIL import Image

import bonescreen as api
from db.queries import ResultFilter, find_study, results
from db.session import Database
from tests import ledgers
from tests.archives import flat_tree, jpeg, png, truncated
from tests.bonescreen.processes import run
from tests.tiny import stored_weights
from xray.errors import FileFault, PackageError, UsageError
from xray.network.package import ModelPackage, write_package
from xray.vocabulary import Reason


@pytest.fixture
def screened(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Database]]:
    """Screen an archive of four images and a damaged one; gives its root and the database."""
    root = tmp_path / "archive"
    flat_tree(root, 4)
    (root / "cut.jpg").write_bytes(truncated(jpeg(9)))
    assert run(environ, "screen", root).returncode == 0
    monkeypatch.setenv("BONESCREEN_HOME", environ["BONESCREEN_HOME"])
    with closing(Database(f"sqlite:///{environ['BONESCREEN_HOME']}/bonescreen.db")) as database:
        yield root, database


def test_predictions_equal_those_of_screening_to_the_bit(
    screened: tuple[Path, Database], tiny_package: ModelPackage
) -> None:
    root, database = screened
    stored = {
        image.image: image
        for row in results(database, ResultFilter())
        for study in find_study(database, row.study)
        for image in study.images
        if image.probability is not None
    }

    predictions = api.load_model(tiny_package.path).predict([root / name for name in stored])

    assert len(predictions) == 4
    for prediction, image in zip(predictions, stored.values(), strict=True):
        assert (prediction.logit, prediction.probability) == (image.logit, image.probability)
        assert prediction.label == image.label
        assert prediction.cam.astype("<f2").tobytes() == image.cam
        assert (prediction.distance, prediction.in_scope) == (image.distance, True)


def test_a_file_its_pixels_and_a_list_of_both_give_the_same_prediction(
    tmp_path: Path, tiny_package: ModelPackage
) -> None:
    file = tmp_path / "hand.png"
    file.write_bytes(png(3))
    model = api.load_model(tiny_package.path)

    by_name, by_path, by_pixels = model.predict([str(file), file, api.load_image(file)])

    assert by_name.logit == by_path.logit == by_pixels.logit == model.predict(file).logit
    assert 0 <= by_name.probability <= 1
    assert model.predict([]) == []


def test_a_long_list_keeps_its_order(tiny_package: ModelPackage) -> None:
    images = [np.full((8, 8), value, np.uint8) for value in range(70)]
    model = api.load_model(tiny_package.path)
    assert [p.logit for p in model.predict(images)] == [model.predict(image).logit for image in images]


def test_a_heat_map_is_a_picture_of_the_image_beside_its_map(tmp_path: Path, tiny_package: ModelPackage) -> None:
    file = tmp_path / "hand.png"
    file.write_bytes(png(3))
    drawn = api.load_model(tiny_package.path).predict(file).heat_map()
    assert isinstance(drawn, Image.Image)
    assert drawn.mode == "RGB"
    assert drawn.width > 2 * 500


def test_an_image_is_loaded_as_gray_and_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    good.write_bytes(png(1))
    bad.write_bytes(truncated(jpeg(2)))

    gray = api.load_image(good)

    assert (gray.dtype, gray.shape) == (np.uint8, (24, 20))
    with pytest.raises(FileFault) as damaged:
        api.load_image(bad)
    assert damaged.value.reason is Reason.TRUNCATED
    assert damaged.value.__notes__ == [f"{bad}: the file ends before the image does"]
    with pytest.raises(FileFault):
        api.load_image(tmp_path)


def test_a_picture_that_screening_refuses_is_not_predicted(tmp_path: Path, tiny_package: ModelPackage) -> None:
    blank = tmp_path / "blank.png"
    Image.new("L", (60, 60)).save(blank)

    with pytest.raises(FileFault) as refused:
        api.load_model(tiny_package.path).predict(blank)
    assert (refused.value.reason, refused.value.detail) == (
        Reason.IMPLAUSIBLE,
        "at least 98% of the picture is black",
    )


@pytest.mark.parametrize("name", ["missing.png", "no folder/missing.png", "empty/missing.png", "good.png/missing.png"])
def test_a_path_with_no_file_is_named_and_is_no_matter_of_an_archive(
    tmp_path: Path, tiny_package: ModelPackage, name: str
) -> None:
    (tmp_path / "good.png").write_bytes(png(1))
    (tmp_path / "empty").mkdir()
    missing = tmp_path / name
    with pytest.raises(UsageError) as refused:
        api.load_image(missing)
    assert str(refused.value) == f"there is no file {missing}"
    with pytest.raises(UsageError, match="there is no file"):
        api.load_model(tiny_package.path).predict([tmp_path / "good.png", str(missing)])
    with pytest.raises(UsageError, match="an empty path; give an image file"):
        api.load_image("")


def test_a_member_of_a_zip_is_an_image_and_a_missing_member_is_not_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "studies.zip", "w") as packed:
        packed.writestr("hand.png", png(1))
    assert api.load_image(tmp_path / "studies.zip" / "hand.png").shape == (24, 20)
    with pytest.raises(UsageError, match="there is no file"):
        api.load_image(tmp_path / "studies.zip" / "foot.png")


def test_images_may_come_from_a_generator(tmp_path: Path, tiny_package: ModelPackage) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    files = sorted(tmp_path.glob("*.png"))
    model = api.load_model(tiny_package.path)
    several = model.predict(file for file in files)
    assert [p.logit for p in several] == [p.logit for p in model.predict(files)]
    assert len(model.predict(tmp_path.glob("*.png"))) == 3
    assert model.predict(iter(())) == []


@pytest.mark.parametrize("images", [b"hand.png", b"", [b"hand.png"], [["hand.png"]], [[0, 1], [2, 3]], 5, None])
def test_what_is_no_image_is_refused_with_what_is_one(tiny_package: ModelPackage, images: Any) -> None:
    with pytest.raises(UsageError, match=r"an image is a file \(str or Path\) or an array of uint8 \(H, W\), not "):
        api.load_model(tiny_package.path).predict(images)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_an_empty_array_is_refused(tiny_package: ModelPackage, shape: tuple[int, int]) -> None:
    model = api.load_model(tiny_package.path)
    for images in (np.zeros(shape, np.uint8), [np.zeros(shape, np.uint8)]):
        with pytest.raises(UsageError, match="not empty"):
            model.predict(images)


def test_predictions_are_compared_and_kept_in_sets_as_objects(tiny_package: ModelPackage) -> None:
    model = api.load_model(tiny_package.path)
    one, other = (model.predict(np.full((8, 8), 7, np.uint8)) for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2
    assert [one, other].index(other) == 1


def test_results_are_those_of_the_command_as_a_list_or_a_data_frame(screened: tuple[Path, Database]) -> None:
    _, database = screened
    listed = api.results()
    frame = api.results(as_frame=True)

    assert listed == list(results(database, ResultFilter()))
    assert isinstance(frame, DataFrame)
    assert frame["study"].tolist() == [row.study for row in listed]
    assert len(api.results(limit=2)) == 2
    assert [row.study for row in api.results(threshold=0.0, flagged=True)] == [
        r.study for r in listed if r.score is not None
    ]


def test_wrong_arguments_are_refused_with_a_way_out(home: Path, tiny_package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run: bonescreen screen"):
        api.results()
    with pytest.raises(PackageError, match="installed: "):
        api.load_model("no-such-model")
    with pytest.raises(UsageError, match=r"uint8 \(H, W\), .* not float64 \(4, 4\)"):
        api.load_model(tiny_package.path).predict(np.zeros((4, 4)))
    with pytest.raises(UsageError, match="label 'fracture' is neither positive nor negative"):
        api.results(label="fracture")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"run": 99}, "there is no run 99; see: bonescreen runs"),
        ({"run": "x"}, "run must be a whole number"),
        ({"run": True}, "run must be a whole number"),
        ({"run": 0}, "run must be a whole number of at least 1"),
        ({"threshold": 7.0}, "threshold must be a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold must be a number from 0 to 1"),
        ({"threshold": "0.5"}, "threshold must be a number from 0 to 1"),
        ({"min_score": -3}, "min_score must be a number from 0 to 1"),
        ({"limit": 0}, "limit must be a whole number of at least 1"),
        ({"limit": -1}, "limit must be a whole number of at least 1"),
        ({"limit": 2.5}, "limit must be a whole number"),
        ({"limit": 2**63}, f"limit must be a whole number from 1 to {2**63 - 1}"),
        ({"label": []}, "label [] is neither positive nor negative"),
        ({"body_part": 5}, "body_part must be a text"),
        ({"body_part": "RIST"}, "body_part 'RIST' is not known; body parts in these results: HAND, HUMERUS, KNEE"),
    ],
)
def test_results_refuses_what_the_command_refuses(home: Path, wanted: dict[str, Any], said: str) -> None:
    ledgers.screened(home)
    with pytest.raises(UsageError) as refused:
        api.results(**wanted)
    assert str(refused.value) == said


def test_results_takes_numbers_from_arrays_and_a_body_part_that_no_image_shows(home: Path) -> None:
    number = ledgers.screened(home)
    assert [row.study for row in api.results(np.int64(number), limit=np.int64(1))] == [ledgers.POSITIVE]  # type: ignore[call-overload]
    assert [row.study for row in api.results(min_score=np.float32(0.5))] == [ledgers.POSITIVE]  # type: ignore[call-overload]
    assert {row.study for row in api.results(body_part="humerus")} == {ledgers.POSITIVE, ledgers.NEGATIVE}
    assert api.results(body_part="WRIST") == []


def test_rows_and_errors_are_named_by_the_package(home: Path) -> None:
    ledgers.screened(home)
    assert isinstance(api.results()[0], api.StudyRow)
    with pytest.raises(api.BonescreenError):
        api.load_image("")
    assert (api.UsageError, api.FileFault, api.PackageError) == (UsageError, FileFault, PackageError)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "numpy keras tensorflow openvino sqlalchemy celery typer PIL"
    check = f"import sys, bonescreen; sys.exit(' '.join(m for m in '{heavy}'.split() if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(api.__all__) <= set(dir(api))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = api.nonsense


def test_an_image_unlike_the_training_images_has_no_label_and_its_heat_map_says_so(
    tmp_path: Path, home: Path, tiny_package: ModelPackage
) -> None:
    tiny = tiny_package.card.distance
    assert tiny is not None
    strict = write_package(
        tmp_path / "strict",
        replace(tiny_package.card, distance=replace(tiny, threshold=1e-3)),
        weights=stored_weights(tiny_package),
        golden=tiny_package.golden(),
        readme="# Strict",
    )
    image = np.eye(80, dtype=np.uint8)
    like, unlike = (api.load_model(package.path).predict(image) for package in (tiny_package, strict))
    assert (like.in_scope, unlike.in_scope, unlike.label) == (True, False, None)
    assert (unlike.distance, unlike.probability) == (like.distance, like.probability)
    assert like.heat_map().tobytes() != unlike.heat_map().tobytes()
